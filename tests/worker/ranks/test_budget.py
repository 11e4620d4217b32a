from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.ranks.budget import Allocation, BudgetLayer, BudgetTooSmall, allocate

values = st.lists(st.floats(0, 10), min_size=1, max_size=5).map(lambda v: sorted(v, reverse=True))


@st.composite
def layers(draw: st.DrawFn) -> tuple[BudgetLayer, ...]:
    def one(i: int) -> BudgetLayer:
        s = np.array(draw(values))
        m, n = len(s), len(s) + draw(st.integers(0, 6))
        return BudgetLayer(
            name=f"l{i}",
            singular_values=s,
            weight=draw(st.floats(0.01, 10)),
            cost_per_rank=m + n,
            dense_cost=m * n,
            may_stay_dense=draw(st.booleans()),
        )

    return tuple(one(i) for i in range(draw(st.integers(1, 3))))


def options(layer: BudgetLayer, multiple: int) -> list[tuple[int | None, int, float]]:
    """(rank or None, cost, error) of all that a layer may be, written out plainly."""
    r = len(layer.singular_values)
    ranks = [k for k in range(1, r + 1) if k % multiple == 0] or [r]
    found = [
        (k, k * layer.cost_per_rank, layer.weight * float((layer.singular_values[k:] ** 2).sum()))
        for k in ranks
        if not layer.may_stay_dense or k * layer.cost_per_rank < layer.dense_cost
    ]
    return found + ([(None, layer.dense_cost, 0.0)] if layer.may_stay_dense else [])


def enumerated(all_layers: tuple[BudgetLayer, ...], budget: int, multiple: int) -> float | None:
    """The least error of all combinations within the budget."""
    combinations = itertools.product(*(options(layer, multiple) for layer in all_layers))
    errors = [sum(o[2] for o in c) for c in combinations if sum(o[1] for o in c) <= budget]
    return min(errors, default=None)


def recomputed(all_layers: tuple[BudgetLayer, ...], found: Allocation, multiple: int):
    """(cost, error) of an allocation; KeyError for a rank that is no option."""
    chosen = [
        {o[0]: o for o in options(layer, multiple)}[found.ranks[layer.name]] for layer in all_layers
    ]
    return sum(o[1] for o in chosen), sum(o[2] for o in chosen)


@settings(deadline=None)
@given(all_layers=layers(), share=st.floats(0, 1), multiple=st.integers(1, 3))
def test_small_problems_are_solved_exactly(
    all_layers: tuple[BudgetLayer, ...], share: float, multiple: int
) -> None:
    costs = [[o[1] for o in options(layer, multiple)] for layer in all_layers]
    least, most = sum(map(min, costs)), sum(map(max, costs))
    budget = least + int(share * (most - least))
    found = allocate(all_layers, budget, rank_multiple=multiple)
    cost, error = recomputed(all_layers, found, multiple)
    assert found.cost == cost <= budget
    assert found.error == pytest.approx(error, rel=1e-9, abs=1e-12)
    assert found.error == pytest.approx(
        enumerated(all_layers, budget, multiple), rel=1e-9, abs=1e-9
    )


@settings(deadline=None)
@given(all_layers=layers())
def test_a_budget_below_the_least_is_refused(all_layers: tuple[BudgetLayer, ...]) -> None:
    least = sum(min(o[1] for o in options(layer, 1)) for layer in all_layers)
    with pytest.raises(BudgetTooSmall) as caught:
        allocate(all_layers, least - 1)
    assert (caught.value.least, caught.value.budget) == (least, least - 1)


def real_layers() -> list[BudgetLayer]:
    rng = np.random.default_rng(0)
    found = []
    for i, (m, n) in enumerate([(384, 384), (1536, 384), (384, 1536)] * 4):
        s = np.sort(rng.random(384) * np.exp(-np.arange(384) / rng.integers(20, 400)))[::-1]
        found.append(
            BudgetLayer(
                name=str(i),
                singular_values=s,
                weight=1 / float((s**2).sum()),
                cost_per_rank=m + n,
                dense_cost=m * n,
            )
        )
    return found


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.8, 1.0])
def test_a_whole_model_uses_its_budget(share: float, multiple: int) -> None:
    model = real_layers()
    budget = int(share * sum(layer.dense_cost for layer in model))
    found = allocate(model, budget, rank_multiple=multiple)
    cost, error = recomputed(tuple(model), found, multiple)
    assert cost == found.cost <= budget
    assert error == pytest.approx(found.error)
    if share == 1.0:
        assert found.error == 0
    else:
        assert cost > budget - multiple * max(layer.cost_per_rank for layer in model)


def test_more_budget_never_leaves_more_error() -> None:
    model = real_layers()
    dense = sum(layer.dense_cost for layer in model)
    errors = [allocate(model, int(share * dense)).error for share in (0.1, 0.2, 0.4, 0.6, 0.9)]
    assert errors == sorted(errors, reverse=True)


def test_energy_goes_where_it_saves_most() -> None:
    flat = BudgetLayer(
        name="flat", singular_values=np.ones(64), weight=1 / 64, cost_per_rank=128, dense_cost=4096
    )
    steep = BudgetLayer(
        name="steep",
        singular_values=np.array([1.0, 0.9] + [0.01] * 62),
        weight=1 / 1.82,
        cost_per_rank=128,
        dense_cost=4096,
    )
    found = allocate([flat, steep], 4096 + 2 * 128)
    assert found.ranks == {"flat": None, "steep": 2}


def test_the_same_problem_has_the_same_answer() -> None:
    model = real_layers()
    assert allocate(model, 900_000) == allocate(model, 900_000)
