"""Ranks for a whole model under one budget: the global Lagrangian with the dense alternative.

Every layer offers options, each with a cost (parameters, bytes or FLOPs) and an error (the energy
that it loses): a rank k costs k times the price of one rank and loses the tail of the spectrum;
staying dense costs the dense price and loses nothing. At a price lambda of one unit of cost every
layer takes the option of least error + lambda * cost; lambda is bisected until the sum of costs
meets the budget, and what is left is spent greedily by error saved per cost. A bounded search then
closes the gap that greed leaves: exact on small problems, and usually on large ones. Ranks that no
layer may have (`rank_multiple`) are not among the options, so nothing is rounded afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.ranks.budget_exact import Options, improved, total_cost, total_error
from worker.ranks.rules import Spectrum

BISECTIONS = 200


@dataclass(frozen=True, kw_only=True)
class BudgetLayer:
    """What the optimiser knows of one layer.

    `singular_values` descending; `weight` turns their squares into the common currency (1 over the
    layer's energy without data, 1 for a spectrum in units of the output). Costs are integers in one
    unit for all layers: `cost_per_rank` is m + n numbers, `dense_cost` m n. `may_stay_dense` False
    leaves the dense option out.
    """

    name: str
    singular_values: Spectrum
    weight: float
    cost_per_rank: int
    dense_cost: int
    may_stay_dense: bool = True


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """`ranks` by layer, None for one that stays dense; what it costs and the error it leaves."""

    ranks: dict[str, int | None]
    cost: int
    error: float


class BudgetTooSmall(ValueError):
    """Even the cheapest option of every layer is over the budget. `least` is what that costs."""

    def __init__(self, budget: int, least: int) -> None:
        super().__init__(f"budget {budget}, least possible {least}")
        self.budget = budget
        self.least = least


def allocate(layers: Sequence[BudgetLayer], budget: int, *, rank_multiple: int = 1) -> Allocation:
    """The ranks of least total error whose cost is within `budget`.

    The optimum, unless more near-optimal solutions exist than `budget_exact.NODES`; then within
    one layer's step of it. Deterministic: ties go to the layer that comes first. Raises
    BudgetTooSmall.
    """
    options = [_options(layer, rank_multiple) for layer in layers]
    least = sum(int(o.costs[0]) for o in options)
    if least > budget:
        raise BudgetTooSmall(budget, least)
    relaxed, price = _bisect(options, budget)
    picks = improved(options, _fill(options, relaxed, budget), budget, price)
    ranks = (int(o.ranks[i]) or None for o, i in zip(options, picks, strict=True))
    return Allocation(
        ranks=dict(zip((layer.name for layer in layers), ranks, strict=True)),
        cost=total_cost(options, picks),
        error=total_error(options, picks),
    )


def _options(layer: BudgetLayer, multiple: int) -> Options:
    s = np.asarray(layer.singular_values, dtype=np.float64)
    tails = layer.weight * np.append(np.cumsum((s * s)[::-1])[::-1], 0.0)
    # A layer narrower than the multiple still has its full rank to offer.
    ranks = np.arange(multiple, len(s) + 1, multiple, dtype=np.int64)
    if len(ranks) == 0:
        ranks = np.array([len(s)], dtype=np.int64)
    costs, errors = ranks * layer.cost_per_rank, tails[ranks]
    if layer.may_stay_dense:
        cheaper = costs < layer.dense_cost
        ranks = np.append(ranks[cheaper], 0)
        costs = np.append(costs[cheaper], layer.dense_cost)
        errors = np.append(errors[cheaper], 0.0)
    better = np.append(True, errors[1:] < np.minimum.accumulate(errors)[:-1])
    return Options(ranks=ranks[better], costs=costs[better], errors=errors[better])


def _pick(options: Sequence[Options], price: float) -> list[int]:
    """Each layer's option of least error + price * cost; the cheapest of equals."""
    return [int(np.argmin(o.errors + price * o.costs)) for o in options]


def _bisect(options: Sequence[Options], budget: int) -> tuple[list[int], float]:
    """The options at the lowest price that keeps the cost within the budget, and that price."""
    free = _pick(options, 0.0)
    if total_cost(options, free) <= budget:
        return free, 0.0
    # At a price above every error saved per unit of cost, all layers take their cheapest option.
    low, high = 0.0, 1.0 + max(float(o.errors[0]) for o in options)
    best = [0] * len(options)
    for _ in range(BISECTIONS):
        price = np.sqrt(low * high) if low > 0 else high / 1024
        picks = _pick(options, float(price))
        if total_cost(options, picks) <= budget:
            best, high = picks, float(price)
        else:
            low = float(price)
        if low > 0 and high / low < 1 + 1e-15:
            break
    return best, high


def _fill(options: Sequence[Options], picks: list[int], budget: int) -> list[int]:
    """Spends what is left: again and again the step that saves most error per cost and fits."""
    picks = list(picks)
    left = budget - total_cost(options, picks)
    while True:
        best: tuple[float, int, int] | None = None
        for layer, (o, now) in enumerate(zip(options, picks, strict=True)):
            extra = o.costs[now + 1 :] - o.costs[now]
            fits = int(np.searchsorted(extra, left, side="right"))
            if fits == 0:
                continue
            gains = (o.errors[now] - o.errors[now + 1 : now + 1 + fits]) / extra[:fits]
            step = int(np.argmax(gains))
            if best is None or gains[step] > best[0]:
                best = (float(gains[step]), layer, now + 1 + step)
        if best is None:
            return picks
        _, layer, choice = best
        left -= int(options[layer].costs[choice] - options[layer].costs[picks[layer]])
        picks[layer] = choice
