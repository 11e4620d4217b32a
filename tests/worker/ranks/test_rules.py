from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankpress.names import Rule
from tests.worker.spectra import KINDS, THRESHOLDS, reference_rank, spectrum
from worker.ranks.rules import (
    EPS_FLOAT64,
    apply_multiple,
    break_even_rank,
    effective_rank,
    energy_kept,
    entropy_kept,
    numerical_rank,
    rank_for,
    ratio_rank,
    smallest_rank,
)

EPS_FLOAT32 = float(np.finfo(np.float32).eps)
WEIGHING = (Rule.ENTROPY, Rule.ENTROPY_SQUARED, Rule.ENERGY)
LAYER_RULES = (*WEIGHING, Rule.RATIO, Rule.EFFECTIVE_RANK, Rule.GAVISH_DONOHO, Rule.EVBMF)
# A flat spectrum puts a sum exactly on a threshold; the plain reference then shows its rounding.
SHARP = tuple(k for k in KINDS if k not in ("gauss", "flat"))

spectra = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=40).map(
    lambda v: np.sort(np.array(v))[::-1]
)


@pytest.mark.parametrize("tau", THRESHOLDS)
@pytest.mark.parametrize("kind", SHARP)
@pytest.mark.parametrize("rule", [*WEIGHING, Rule.RATIO])
def test_threshold_rules_are_the_formulas(rule: Rule, kind: str, tau: float) -> None:
    for m, n in ((64, 48), (48, 64), (300, 7), (50, 50)):
        s = spectrum(kind, min(m, n))
        wanted = reference_rank(rule, s, m, n, tau, EPS_FLOAT32)
        assert rank_for(rule, s, m, n, tau, eps=EPS_FLOAT32) == wanted


@pytest.mark.parametrize("kind", [*SHARP, "flat"])
@pytest.mark.parametrize("rule", [Rule.EFFECTIVE_RANK, Rule.GAVISH_DONOHO])
def test_rules_without_a_threshold_are_the_formulas(rule: Rule, kind: str) -> None:
    for m, n in ((64, 48), (48, 64), (300, 7)):
        s = spectrum(kind, min(m, n))
        assert rank_for(rule, s, m, n) == reference_rank(rule, s, m, n, None, EPS_FLOAT64)


def test_smallest_k_is_inclusive() -> None:
    assert smallest_rank(np.array([0.9, 0.05, 0.05]), 0.95) == 2
    assert smallest_rank(np.full(10, 0.1), 0.9) == 9
    assert smallest_rank(np.full(1000, 0.001), 0.9) == 900


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("rule", WEIGHING)
def test_equal_values_are_kept_by_their_share(rule: Rule, tau: float) -> None:
    assert rank_for(rule, np.ones(100), 100, 120, tau) == round(100 * tau)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25, 1e300, 1e-300])
@pytest.mark.parametrize("rule", LAYER_RULES)
def test_scale_changes_no_rank(rule: Rule, scale: float) -> None:
    tau = 0.9 if rule.uses_threshold else None
    s = spectrum("power", 40)
    assert rank_for(rule, s * scale, 40, 60, tau) == rank_for(rule, s, 40, 60, tau)


@pytest.mark.parametrize("rule", WEIGHING)
def test_threshold_one_is_the_numerical_rank(rule: Rule) -> None:
    s = np.concatenate((np.linspace(1, 0.1, 20), np.full(30, 1e-9)))
    assert rank_for(rule, s, 50, 80, 1.0, eps=EPS_FLOAT32) == 20
    assert rank_for(rule, s, 50, 80, 1.0, eps=EPS_FLOAT64) == 50
    assert rank_for(rule, np.ones(512), 512, 512, 1.0, eps=EPS_FLOAT32) == 512


def test_threshold_one_of_the_ratio_is_its_own_formula() -> None:
    assert rank_for(Rule.RATIO, np.ones(64), 64, 96, 1.0) == 64 * 96 // (64 + 96)


@pytest.mark.parametrize("rule", WEIGHING)
@pytest.mark.parametrize("tail", [0.0, 1e-17])
def test_rank_one_is_rank_one(rule: Rule, tail: float) -> None:
    s = np.array([3.0] + [3.0 * tail] * 200)
    assert rank_for(rule, s, 201, 300, 0.9) == 1
    assert rank_for(rule, s, 201, 300, 1.0) == 1


@pytest.mark.parametrize("rule", LAYER_RULES)
def test_one_value_has_rank_one(rule: Rule) -> None:
    tau = 0.9 if rule.uses_threshold else None
    assert rank_for(rule, np.array([2.5]), 1, 50, tau) == 1


@settings(deadline=None)
@given(s=spectra, tau=st.floats(0.01, 1.0), extra=st.integers(0, 30))
@pytest.mark.parametrize("rule", LAYER_RULES)
def test_every_rank_lies_between_one_and_full(
    rule: Rule, s: np.ndarray, tau: float, extra: int
) -> None:
    assert (
        1
        <= rank_for(rule, s, len(s), len(s) + extra, tau if rule.uses_threshold else None)
        <= len(s)
    )


@settings(deadline=None)
@given(s=spectra, low=st.floats(0.01, 0.99), high=st.floats(0.01, 0.99))
@pytest.mark.parametrize("rule", [*WEIGHING, Rule.RATIO])
def test_a_higher_threshold_never_keeps_less(
    rule: Rule, s: np.ndarray, low: float, high: float
) -> None:
    low, high = sorted((low, high))
    m = n = len(s)
    assert rank_for(rule, s, m, n, low) <= rank_for(rule, s, m, n, high)


@settings(deadline=None)
@given(s=spectra, tau=st.floats(0.01, 0.99))
def test_the_rank_keeps_what_was_asked_and_one_less_does_not(s: np.ndarray, tau: float) -> None:
    k = rank_for(Rule.ENERGY, s, len(s), len(s), tau)
    assert energy_kept(s, k) >= tau - 1e-12
    assert k == 1 or energy_kept(s, k - 1) < tau + 1e-12
    k = rank_for(Rule.ENTROPY, s, len(s), len(s), tau)
    assert entropy_kept(s, k) >= tau - 1e-12


def test_shares_kept() -> None:
    s = np.array([4.0, 3.0, 0.0])
    assert energy_kept(s, 1) == pytest.approx(16 / 25)
    assert energy_kept(s, 3) == 1
    h = [4 / 7 * np.log(7 / 4), 3 / 7 * np.log(7 / 3)]
    assert entropy_kept(s, 1) == pytest.approx(h[0] / sum(h))
    assert entropy_kept(np.array([1.0, 0.0]), 1) == 1  # no entropy at all


def test_ratio_rank_is_the_share_of_parameters() -> None:
    assert ratio_rank(20, 20, 0.9) == 9
    assert ratio_rank(512, 1000, 0.1) == 33
    assert ratio_rank(10, 10, 1e-6) == 1
    assert ratio_rank(3, 1000, 1.0) == 2


def test_effective_rank_of_equal_values_is_their_number() -> None:
    for q in (1, 2, 3, 7, 100, 513):
        assert effective_rank(np.concatenate((np.ones(q), np.zeros(20)))) == q


@settings(deadline=None)
@given(m=st.integers(1, 400), n=st.integers(1, 400))
def test_break_even_is_the_last_rank_that_saves(m: int, n: int) -> None:
    k = break_even_rank(m, n)
    assert k * (m + n) < m * n <= (k + 1) * (m + n)


def test_break_even_of_known_shapes() -> None:
    assert break_even_rank(512, 512) == 255
    assert break_even_rank(512, 1000) == 338
    assert break_even_rank(1, 100) == 0


@settings(deadline=None)
@given(k=st.integers(1, 500), multiple=st.integers(1, 64), slack=st.integers(0, 100))
def test_multiples_round_up_and_stay_full(k: int, multiple: int, slack: int) -> None:
    full = k + slack
    rounded = apply_multiple(k, multiple, full)
    assert k <= rounded <= full
    assert rounded % multiple == 0 or rounded == full


def test_evbmf_finds_planted_signal_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((200, 300))
    planted = noise + 10 * rng.standard_normal((200, 5)) @ rng.standard_normal((5, 300))
    s = np.linalg.svd(planted, compute_uv=False)
    assert rank_for(Rule.EVBMF, s, 200, 300) == 5
    assert rank_for(Rule.EVBMF, np.linalg.svd(noise, compute_uv=False), 200, 300) == 1


def test_gavish_donoho_finds_planted_signal() -> None:
    rng = np.random.default_rng(1)
    planted = rng.standard_normal((200, 300)) + 10 * rng.standard_normal(
        (200, 5)
    ) @ rng.standard_normal((5, 300))
    s = np.linalg.svd(planted, compute_uv=False)
    assert rank_for(Rule.GAVISH_DONOHO, s, 200, 300) == 5


def test_numerical_rank_counts_above_the_rounding() -> None:
    assert numerical_rank(np.array([1.0, 1e-3, 1e-6]), 10, 10, eps=1e-5) == 2


@pytest.mark.parametrize("s", [[0.0, 0.0], [], [np.nan, 1.0], [np.inf, 1.0]])
def test_no_rank_without_a_spectrum(s: list[float]) -> None:
    with pytest.raises(ValueError, match="spectrum"):
        rank_for(Rule.ENTROPY, np.array(s), 2, 2, 0.9)


@pytest.mark.parametrize("tau", [None, 0.0, -1.0, 1.5, float("nan")])
def test_a_threshold_outside_its_range_is_refused(tau: float | None) -> None:
    with pytest.raises(ValueError, match="threshold"):
        rank_for(Rule.ENTROPY, np.ones(3), 3, 3, tau)


@pytest.mark.parametrize("rule", [Rule.BUDGET, Rule.AUTO])
def test_rules_of_the_whole_model_choose_no_layer_rank(rule: Rule) -> None:
    with pytest.raises(ValueError, match=str(rule)):
        rank_for(rule, np.ones(3), 3, 3)
