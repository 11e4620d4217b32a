from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from rankpress.names import Action, Kind, Reason, Rule
from rankpress.schemas.request import JobRequest
from tests.worker.spectra import exact_values, matrix, reference_rank
from worker.factorise import layer as layer_module
from worker.factorise import viewed
from worker.factorise.layer import LayerResult, factorise_layer, factorise_layer_many
from worker.linalg.spectrum import Decomposition, NumericalFailure
from worker.ranks.rules import break_even_rank
from worker.read.plan import PlannedTensor, make_plan
from worker.tensors import StoredTensor, dtype_name

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
EPS_FLOAT32 = torch.finfo(torch.float32).eps


def planned_for(tensor: torch.Tensor, name: str = "a.weight", **fields) -> PlannedTensor:
    request = {"model": "m", "threshold": 0.6, "protect_output": False} | fields
    stored = StoredTensor(
        name=name, dtype=dtype_name(tensor.dtype), shape=tuple(tensor.shape), nbytes=tensor.nbytes
    )
    return make_plan([stored], JobRequest.model_validate(request))[name]


def run(tensor: torch.Tensor, name: str = "a.weight", **fields) -> LayerResult:
    return factorise_layer(tensor, planned_for(tensor, name, **fields))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(96, 64), (64, 96)], ids=str)
def test_a_layer_becomes_its_factors(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = matrix("decaying", *shape, dtype)
    result = run(weight)
    report = result.report
    s = exact_values(weight)
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    k = reference_rank(Rule.ENTROPY, s, *shape, 0.6, eps)
    assert (report.action, report.reason, report.rank) == (Action.FACTORISED, None, k)
    assert (report.kind, report.full_rank) == (Kind.MATRIX, 64)
    assert report.break_even_rank == break_even_rank(*shape)
    assert report.factor_keys == ("a.0.weight", "a.1.weight")
    assert result.right.dtype == result.left.dtype == dtype
    assert (result.right.shape, result.left.shape) == ((k, shape[1]), (shape[0], k))
    assert report.parameters_after == k * sum(shape) < report.parameters_before
    assert report.bytes_after == report.parameters_after * weight.element_size()
    error = (weight.double() - result.left.double() @ result.right.double()).norm()
    assert report.relative_error == pytest.approx(float(error / weight.double().norm()), rel=1e-4)
    optimum = float(np.sqrt((s[k:] ** 2).sum() / (s**2).sum()))
    assert report.optimal_relative_error == pytest.approx(optimum, rel=1e-3)
    assert report.energy_kept == pytest.approx(float((s[:k] ** 2).sum() / (s**2).sum()), rel=1e-5)
    assert report.spectral_error == pytest.approx(s[k], rel=1e-3)
    assert 0.6 <= report.entropy_kept <= 1
    assert np.allclose(result.singular_values[0], s, atol=1e-3 * s[0])


def test_512_by_1000_at_rank_400_stays_dense() -> None:
    weight = torch.randn(512, 1000, generator=torch.Generator().manual_seed(0))
    result = run(
        weight, threshold=None, rule="effective_rank", layers=[{"match": "*", "rank": 400}]
    )
    report = result.report
    assert (report.action, report.reason) == (Action.KEPT_DENSE, Reason.ABOVE_BREAK_EVEN)
    assert (report.rank, report.break_even_rank) == (400, 338)
    assert (report.parameters_after, report.bytes_after) == (512_000, 2_048_000)
    assert report.relative_error is None
    assert result.right is None
    assert result.left is None


def test_a_layer_that_stays_dense_costs_no_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("vectors were computed")

    monkeypatch.setattr(Decomposition, "factors", never)
    assert run(matrix("gauss", 64, 64), threshold=0.99).report.reason is Reason.ABOVE_BREAK_EVEN


@pytest.mark.parametrize(
    ("weight", "action", "reason"),
    [
        (
            torch.tensor([[float("inf"), 1.0], [1.0, 1.0]]).repeat(8, 8),
            Action.PASSED_THROUGH,
            Reason.NON_FINITE,
        ),
        (torch.full((20, 30), float("nan")), Action.PASSED_THROUGH, Reason.NON_FINITE),
        (torch.zeros(20, 30), Action.KEPT_DENSE, Reason.ZERO),
        (torch.randn(1, 50), Action.KEPT_DENSE, Reason.ABOVE_BREAK_EVEN),
        (torch.randn(50, 1), Action.KEPT_DENSE, Reason.ABOVE_BREAK_EVEN),
    ],
)
def test_what_cannot_be_cut_stays_with_its_reason(weight, action: Action, reason: Reason) -> None:
    result = run(weight)
    assert (result.report.action, result.report.reason) == (action, reason)
    assert result.report.bytes_after == weight.nbytes
    assert result.right is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [60.0, 1e-3])
def test_constants_shrink_to_rank_one(value: float, dtype: torch.dtype) -> None:
    result = run(torch.full((128, 96), value, dtype=dtype))
    assert (result.report.action, result.report.rank) == (Action.FACTORISED, 1)
    assert result.report.relative_error < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("value", [1e-30, 1e25])
def test_extreme_constants_shrink_too(value: float) -> None:
    result = run(torch.full((64, 96), value))
    assert (result.report.action, result.report.rank) == (Action.FACTORISED, 1)
    assert math.isfinite(result.report.spectral_error)


def test_a_rank_deficient_layer_shrinks_without_loss() -> None:
    weight = matrix("gauss", 300, 9) @ matrix("gauss", 9, 200, seed=1)
    result = run(weight, threshold=1.0)
    assert (result.report.action, result.report.rank) == (Action.FACTORISED, 9)
    assert result.report.relative_error < 1e-6


def test_factors_beyond_the_dtype_leave_the_layer_dense() -> None:
    weight = torch.full((64, 64), 1e-7, dtype=torch.float16)  # a subnormal: its root is one bit
    noise = torch.zeros_like(weight)
    noise[::2] = 6e-8
    result = run(weight + noise, threshold=0.5)
    assert result.report.action in (Action.FACTORISED, Action.KEPT_DENSE)
    if result.report.action is Action.FACTORISED:
        assert result.report.relative_error < 0.1


def test_cast_overflow_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = torch.full((64, 1), 1e30)
    monkeypatch.setattr(Decomposition, "factors", lambda self, k: (huge, huge.T))
    result = run(matrix("decaying", 64, 64, torch.float16))
    assert (result.report.action, result.report.reason) == (Action.KEPT_DENSE, Reason.CAST_OVERFLOW)
    assert result.right is None


@pytest.mark.parametrize("where", ["decompose", "factors"])
def test_numerical_failure_is_a_reason(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise NumericalFailure("every driver")

    if where == "decompose":
        monkeypatch.setattr(viewed, "decompose", fails)
    else:
        monkeypatch.setattr(Decomposition, "factors", fails)
    result = run(matrix("decaying", 64, 64))
    assert (result.report.action, result.report.reason) == (Action.FAILED, Reason.NUMERICAL_FAILURE)
    assert result.report.bytes_after == result.report.bytes_before


def test_many_thresholds_cost_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = viewed.decompose
    monkeypatch.setattr(
        viewed, "decompose", lambda w, **more: calls.append(1) or original(w, **more)
    )
    weight = matrix("decaying", 96, 64)
    taus = (0.5, 0.8, 0.95)
    planned = dataclasses.replace(planned_for(weight), thresholds=taus)
    results = factorise_layer_many(weight, planned)
    assert len(calls) == 1
    s = exact_values(weight)
    ranks = [reference_rank(Rule.ENTROPY, s, 96, 64, tau, EPS_FLOAT32) for tau in taus]
    assert [r.report.rank for r in results] == ranks
    assert tuple(r.report.threshold for r in results) == taus
    with pytest.raises(ValueError, match="unpack"):
        factorise_layer(weight, planned)


@pytest.mark.parametrize("multiple", [8, 16])
def test_ranks_are_rounded_up_to_the_multiple(multiple: int) -> None:
    weight = matrix("decaying", 96, 64)
    plain, rounded = run(weight), run(weight, rank_multiple=multiple)
    assert rounded.report.rank == -(-plain.report.rank // multiple) * multiple
    assert rounded.right.shape[0] == rounded.report.rank


def test_a_fixed_rank_is_taken() -> None:
    result = run(matrix("gauss", 96, 64), layers=[{"match": "*", "rank": 5}])
    assert (result.report.action, result.report.rank) == (Action.FACTORISED, 5)


class TestConvolutions:
    def test_the_form_with_fewer_parameters_wins(self) -> None:
        """A kernel that is separable in space has rank 2 as (out kh) x (in kw), and more as
        out x (in kh kw)."""
        generator = torch.Generator().manual_seed(0)
        right = torch.randn(2, 12, 1, 5, generator=generator)
        left = torch.randn(24, 2, 5, 1, generator=generator)
        weight = torch.einsum("okh,kiw->oihw", left[..., 0], right[:, :, 0])
        result = run(weight, threshold=1.0)
        assert (result.report.kind, result.report.rank) == (Kind.CONVOLUTION_SPATIAL, 2)
        assert result.right.shape == (2, 12, 1, 5)
        assert result.left.shape == (24, 2, 5, 1)
        product = torch.einsum("okh,kiw->oihw", result.left[..., 0], result.right[:, :, 0])
        assert torch.allclose(product, weight, atol=1e-5)

    @pytest.mark.parametrize("shape", [(24, 16, 3), (24, 16, 3, 3), (24, 16, 3, 3, 3)], ids=str)
    def test_reports_measure_the_stored_tensor(self, shape: tuple[int, ...]) -> None:
        weight = matrix("decaying", shape[0], math.prod(shape[1:])).reshape(shape)
        planned = planned_for(weight)
        result = factorise_layer(weight, planned)
        assert result.report.action is Action.FACTORISED
        view = next(v for v in planned.views if v.kind is result.report.kind)
        product = view.to_tensor(result.left, result.right)
        error = float((weight - product).norm() / weight.norm())
        assert result.report.relative_error == pytest.approx(error, rel=1e-3)

    def test_another_form_is_never_worse(self) -> None:
        weight = torch.randn(16, 12, 3, 3, generator=torch.Generator().manual_seed(3))
        planned = planned_for(weight, threshold=0.4)
        both = factorise_layer(weight, planned).report
        plain = factorise_layer(
            weight, dataclasses.replace(planned, views=planned.views[:1])
        ).report
        assert both.parameters_after <= plain.parameters_after
        assert 1 - both.energy_kept <= 1 - plain.energy_kept + 1e-6


class TestExperts:
    def test_each_has_its_own_rank(self) -> None:
        a = matrix("gauss", 60, 4) @ matrix("gauss", 4, 50)
        b = matrix("gauss", 60, 9) @ matrix("gauss", 9, 50)
        weight = torch.stack((a, b, torch.zeros(60, 50)))
        result = run(weight, name="mlp.experts.weight", threshold=1.0)
        report = result.report
        assert (report.action, report.kind, report.rank) == (Action.FACTORISED, Kind.EXPERTS, 9)
        assert report.note == "ranks of the experts: 4, 9, 1"
        assert report.factor_keys == ("mlp.experts.weight.right", "mlp.experts.weight.left")
        assert torch.allclose(result.left @ result.right, weight, atol=1e-4)
        assert len(result.singular_values) == 3

    def test_one_that_is_not_finite_keeps_all(self) -> None:
        weight = torch.ones(2, 60, 50)
        weight[1, 0, 0] = torch.nan
        assert run(weight, name="experts").report.reason is Reason.NON_FINITE


def test_the_plan_must_be_for_this_tensor() -> None:
    with pytest.raises(ValueError, match="planned"):
        factorise_layer(torch.ones(3, 4), planned_for(torch.ones(4, 3)))


@pytest.mark.parametrize("rule", ["budget"])
def test_a_rule_of_the_whole_model_needs_a_fixed_rank(rule: str) -> None:
    weight = matrix("decaying", 96, 64)
    planned = planned_for(weight, rule=rule, threshold=None, budget={"parameters": 0.4})
    with pytest.raises(ValueError, match="budget"):
        factorise_layer(weight, planned)
    result = factorise_layer(weight, dataclasses.replace(planned, rank=6))
    assert (result.report.rank, result.report.rule) == (6, Rule.BUDGET)


def test_values_are_never_changed() -> None:
    weight = matrix("decaying", 96, 64)
    before = weight.clone()
    run(weight)
    assert torch.equal(weight, before)
    assert layer_module.LayerResult(report=run(weight).report).right is None


def test_min_speedup_is_the_break_even_for_speed() -> None:
    """96 x 64: two factors of rank k take k (96 + 64) operations instead of 96 x 64."""
    weight = matrix("decaying", 96, 64)
    for speedup, highest in ((1.0, 38), (1.5, 25), (2.0, 19), (3.0, 12), (38.4, 1)):
        for rank in (highest, highest + 1):
            entry = {"match": "*", "rank": rank}
            for fields in (
                {"layers": [entry], "min_speedup": speedup},
                {"layers": [{**entry, "min_speedup": speedup}]},
            ):
                report = run(weight, **fields).report
                if rank == highest:
                    assert (report.action, report.rank) == (Action.FACTORISED, rank)
                    assert report.parameters_before >= speedup * report.parameters_after
                else:
                    wanted = Reason.BELOW_MIN_SPEEDUP if speedup > 1 else Reason.ABOVE_BREAK_EVEN
                    assert (report.action, report.reason) == (Action.KEPT_DENSE, wanted)
    report = run(weight, layers=[{"match": "*", "rank": 1}], min_speedup=39.0).report
    assert report.reason is Reason.BELOW_MIN_SPEEDUP
