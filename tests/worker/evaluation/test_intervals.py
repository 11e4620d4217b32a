"""Intervals: published examples, coverage on simulated pairs, and what they always hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from worker.evaluation.intervals import agreement_below_one, paired_proportions, wilson
from worker.evaluation.metrics.cells import Cells, macro_f1
from worker.evaluation.resample import MAX_GROUPS, RESAMPLES, PairedSums, percentile_interval


def test_wilson_against_the_published_example():
    # Newcombe 1998, Statistics in Medicine 17, 857: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for (k, n), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


counts = st.integers(0, 60)


@given(counts, counts, counts, counts)
def test_paired_proportions_hold_the_difference_and_mirror(a, b, c, d):
    if a + b + c + d == 0:
        return
    found = paired_proportions(a, b, c, d)
    difference = (c - b) / (a + b + c + d)
    assert -1 <= found.low <= difference + 1e-12
    assert difference - 1e-12 <= found.high <= 1
    assert found.low < found.high
    other = paired_proportions(a, c, b, d)
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low))
    assert found.method == "newcombe_paired"


@given(st.integers(0, 50), st.integers(0, 50))
def test_agreement(agreeing, rest):
    if agreeing + rest:
        found = agreement_below_one(agreeing, agreeing + rest)
        difference = agreeing / (agreeing + rest) - 1
        assert -1 <= found.low <= difference + 1e-12
        assert difference - 1e-12 <= found.high <= 1e-12


def simulated(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    dense = generator.random(n) < 0.9
    compressed = np.where(generator.random(n) < 0.95, dense, generator.random(n) < 0.5)
    return dense, compressed


TRUE_DIFFERENCE = 0.95 * 0.9 + 0.05 * 0.5 - 0.9


def test_paired_proportions_cover_the_truth():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        d, c = simulated(generator, 300)
        found = paired_proportions(*(int(x.sum()) for x in (d & c, d & ~c, ~d & c, ~d & ~c)))
        hits += found.low <= TRUE_DIFFERENCE <= found.high
    assert 925 <= hits <= 985


def test_the_bootstrap_covers_the_truth_of_a_mean_difference():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        loss = generator.exponential(1.0, 150)
        other = loss + generator.normal(0.05, 0.3, 150)
        sums = PairedSums(150, 3)
        sums.add(torch.tensor(np.stack([np.ones(150), loss, other], axis=1)))
        (found,) = sums.intervals(lambda s: ((s[:, 2] - s[:, 1]) / s[:, 0]).unsqueeze(1))
        hits += found.low <= 0.05 <= found.high
    assert 178 <= hits <= 199  # 95 % of 200 is 190; five standard deviations either way


def one_column(sums: PairedSums):
    (found,) = sums.intervals(lambda s: (s[:, 1] / s[:, 0]).unsqueeze(1))
    return found


def test_the_bootstrap_has_the_width_that_theory_gives():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = PairedSums(4000, 2)
    for part in values.split(613):
        sums.add(torch.stack([torch.ones_like(part), part], dim=1))
    found = one_column(sums)
    width = 2 * 1.96 * float(values.std()) / 4000**0.5
    assert found.high - found.low == pytest.approx(width, rel=0.08)
    assert found.method == "paired_bootstrap"
    assert found.level == 0.95


def test_groups_stand_in_for_samples_even_in_sorted_data():
    count = 6 * MAX_GROUPS
    values = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = (values + 3).sort().values
    sums = PairedSums(count, 2)
    for part in values.split(50_000):
        sums.add(torch.stack([torch.ones_like(part), part], dim=1))
    assert sums.totals()[0] == count
    found = one_column(sums)
    width = 2 * 1.96 * float(values.std()) / count**0.5
    assert found.high - found.low == pytest.approx(width, rel=0.08)


def test_the_same_data_gives_the_same_interval():
    def once():
        sums = PairedSums(50, 2)
        sums.add(torch.stack([torch.ones(50), torch.arange(50.0)], dim=1))
        return one_column(sums)

    assert once() == once()
    blocks = list(PairedSums(7, 2).replicates())
    assert sum(len(block) for block in blocks) == RESAMPLES


def test_one_sample_has_no_interval():
    sums = PairedSums(1, 2)
    sums.add(torch.ones(1, 2))
    assert one_column(sums) is None


@settings(deadline=None)
@given(st.floats(-5, 5), st.integers(1, 50))
def test_a_percentile_interval_holds_the_measured_difference(difference, size):
    values = torch.linspace(-1, 1, size, dtype=torch.float64)
    found = percentile_interval(values, difference)
    assert found.low <= difference <= found.high


def test_a_statistic_that_is_mostly_undefined_has_no_interval():
    values = torch.full((100,), float("nan"))
    values[:90] = 0.5
    assert percentile_interval(values, 0.5) is None
    assert percentile_interval(torch.zeros(100), float("nan")) is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=40))
def test_weighted_macro_f1_equals_scikit_learn(rows):
    target, dense, compressed = (np.array(column) for column in zip(*rows, strict=True))
    cells = Cells(6)  # class 5 never occurs
    half = len(target) // 2
    for part in (slice(0, half), slice(half, None)):
        cells.add(*(torch.from_numpy(x[part]) for x in (target, dense, compressed)))
    t, d, c, counts_K = cells.table()
    assert counts_K.sum() == len(rows)
    for cell, full in ((d, dense), (c, compressed)):
        wanted = f1_score(target, full, average="macro", zero_division=0)
        assert macro_f1(t, cell, counts_K[None], 6)[0] == pytest.approx(wanted)
    found = cells.macro_f1_interval()
    if len(rows) == 1:
        assert found is None
        return
    difference = f1_score(target, compressed, average="macro", zero_division=0) - f1_score(
        target, dense, average="macro", zero_division=0
    )
    assert found.low <= difference + 1e-12
    assert difference <= found.high + 1e-12


def test_the_multinomial_of_cells_has_the_width_of_the_samples_own_bootstrap():
    generator = np.random.default_rng(3)
    target = generator.integers(0, 3, 400)
    dense = np.where(generator.random(400) < 0.85, target, generator.integers(0, 3, 400))
    compressed = np.where(generator.random(400) < 0.9, dense, generator.integers(0, 3, 400))
    cells = Cells(3)
    cells.add(*(torch.from_numpy(x) for x in (target, dense, compressed)))
    found = cells.macro_f1_interval()
    plain = []
    for _ in range(500):
        i = generator.integers(0, 400, 400)
        plain.append(
            f1_score(target[i], compressed[i], average="macro")
            - f1_score(target[i], dense[i], average="macro")
        )
    low, high = np.quantile(plain, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
