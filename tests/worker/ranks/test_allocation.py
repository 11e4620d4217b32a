"""Whole-model budgets: what counts, in which unit, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankpress.errors import InvalidRequest
from rankpress.names import Aware
from rankpress.schemas.request import Budget, JobRequest
from worker.ranks.allocation import Ranker, Unit, WideSpectrum, joint
from worker.ranks.budget import BudgetTooSmall
from worker.read.plan import Plan, make_plan
from worker.tensors import StoredTensor, dtype_of


def stored(
    name: str, *shape: int, dtype: str = "float32", alias_of: str | None = None
) -> StoredTensor:
    nbytes = torch.Size(shape).numel() * dtype_of(dtype).itemsize
    return StoredTensor(name=name, dtype=dtype, shape=shape, nbytes=nbytes, alias_of=alias_of)


MODEL = (
    stored("a.weight", 40, 60), stored("a.bias", 40), stored("b.weight", 30, 40, dtype="float16"),
    stored("head.weight", 10, 30), stored("tied.weight", 40, 60, alias_of="a.weight"),
)  # fmt: skip
WHOLE = 40 * 60 + 40 + 30 * 40 + 10 * 30


def ranker(
    model: tuple[StoredTensor, ...] = MODEL, *, aware: Aware = Aware.NONE, scale: float = 1.0,
    **fields: object,
) -> Ranker:  # fmt: skip
    request = JobRequest.model_validate(
        {"model": "m", "rule": "budget", "budget": {"parameters": 0.5}, **fields}
    )
    plan: Plan = make_plan(model, request)
    spectra = []
    for i, planned in enumerate(p for p in plan.tensors if p.is_candidate):
        view = planned.views[0]
        s = np.geomspace(1, 1e-3, view.full_rank) * (scale if i == 0 else 1)
        spectra.append(WideSpectrum(planned=planned, view=view, singular_values=(s,) * view.count))
    return Ranker(plan.tensors, spectra, aware=aware, rank_multiple=request.rank_multiple)


def numbers(ranks: dict[str, int | None]) -> int:
    """What a file of these ranks holds, written apart from the code."""
    a, b = ranks["a.weight"], ranks["b.weight"]
    return (2400 if a is None else 100 * a) + 40 + (1200 if b is None else 70 * b) + 300


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.8, 1.0])
def test_the_whole_model_keeps_to_the_share(share: float) -> None:
    found, _ = ranker().for_budget(Budget(parameters=share), "/budget")
    assert found.whole == WHOLE
    assert found.cost == numbers(found.ranks) <= share * WHOLE
    assert share * WHOLE - found.cost < 170  # no layer had room for another rank


def test_bytes_count_the_element_size() -> None:
    found, _ = ranker().for_budget(Budget(bytes=0.4), "/budget")
    whole = 4 * (2400 + 40 + 300) + 2 * 1200
    a, b = found.ranks["a.weight"], found.ranks["b.weight"]
    assert a is not None
    assert b is not None
    assert found.whole == whole
    assert found.cost == 4 * (100 * a + 340) + 2 * 70 * b <= 0.4 * whole


def test_flops_count_matrices_alone() -> None:
    found, _ = ranker().for_budget(Budget(flops=0.4), "/budget")
    assert found.whole == WHOLE - 40
    assert found.cost == numbers(found.ranks) - 40 <= 0.4 * found.whole


def test_all_of_it_stays_dense() -> None:
    found, _ = ranker().for_budget(Budget(parameters=1.0), "/budget")
    assert found.ranks == {"a.weight": None, "b.weight": None}


def test_what_is_chosen_by_hand_is_no_matter_of_the_budget() -> None:
    by_hand = [{"match": "a.*", "rank": 3}, {"match": "b.*", "rule": "ratio", "threshold": 0.5}]
    found = ranker(layers=by_hand).within(WHOLE, Unit.PARAMETERS)
    assert found.ranks == {"a.weight": 3, "b.weight": 8}
    dense = ranker(layers=[{"match": "a.*", "rank": 39}]).within(WHOLE, Unit.PARAMETERS)
    assert dense.ranks["a.weight"] is None  # above break-even
    kept = ranker(layers=[{"match": "a.*", "keep_dense": True}]).within(3200, Unit.PARAMETERS)
    assert kept.ranks["b.weight"] == (3200 - 2400 - 40 - 300) // 70


def test_multiples_are_part_of_the_choice() -> None:
    found, _ = ranker(rank_multiple=4).for_budget(Budget(parameters=0.5), "/budget")
    assert all(rank is None or rank % 4 == 0 for rank in found.ranks.values())
    assert found.cost == numbers(found.ranks) <= 0.5 * WHOLE


def test_a_layers_scale_counts_when_energies_are_of_the_output() -> None:
    """Shares of its own energy: no matter. In units of the model's output: all that matters."""
    alike = [ranker(scale=s).within(2000, Unit.PARAMETERS).ranks for s in (1, 100)]
    assert alike[0] == alike[1]
    plain, large = (
        ranker(aware=Aware.TWO_SIDED, scale=s).within(2000, Unit.PARAMETERS).ranks["a.weight"]
        for s in (1, 100)
    )
    assert plain is not None
    assert large is not None
    assert large > plain


def test_too_little() -> None:
    least = 100 + 40 + 70 + 300
    assert ranker().within(least, Unit.PARAMETERS).ranks == {"a.weight": 1, "b.weight": 1}
    with pytest.raises(BudgetTooSmall):
        ranker().within(least - 1, Unit.PARAMETERS)
    with pytest.raises(InvalidRequest, match=f"already take {least}: send 0.1295 or more") as found:
        ranker().for_budget(Budget(parameters=0.1), "/budget/1")
    assert found.value.errors[0].pointer == "/budget/1/parameters"
    assert least <= 0.1295 * WHOLE
    ranker().for_budget(Budget(parameters=0.1295), "/budget")


def test_flops_of_convolutions_are_not_known() -> None:
    conv = (*MODEL, stored("c.weight", 32, 16, 3, 3))
    with pytest.raises(InvalidRequest, match=r"'c\.weight' is no plain matrix"):
        ranker(conv).for_budget(Budget(flops=0.5), "/budget")
    ranker(conv).for_budget(Budget(parameters=0.5), "/budget")


def test_new_biases_are_reserved() -> None:
    plan = make_plan(
        MODEL, JobRequest.model_validate({"model": "m", "rule": "budget", "budget": {"bytes": 1.0}})
    )
    planned = plan["b.weight"]
    spectrum = WideSpectrum(
        planned=planned, view=planned.views[0], singular_values=(np.geomspace(1, 1e-3, 30),)
    )
    with_bias = Ranker(
        plan.tensors, [spectrum], aware=Aware.INPUTS, rank_multiple=1, new_biases={"b.weight": 30}
    )
    found = with_bias.within(WHOLE - 1200 + 30 + 2 * 70 + 69, Unit.PARAMETERS)
    assert found.ranks == {"b.weight": 2}


def test_a_stack_shares_one_rank() -> None:
    s = joint((np.array([3.0, 0.0]), np.array([4.0, 1e-100])))
    np.testing.assert_allclose(s, [5.0, 1e-100])
