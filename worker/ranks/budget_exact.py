"""Closes the gap that greedy filling leaves: a bounded search with the Lagrangian as its bound.

At the price lambda of the relaxation, an option's excess is how much its error + lambda * cost lies
above its layer's least. The excesses of any solution within the budget add up to no more than its
own error less the relaxation's bound; so once a good solution is known, most options are out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NODES = 20_000  # a count and not a time, so that the same input gives the same ranks
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Options:
    """A layer's options by rising cost and falling error. Rank 0 stands for staying dense."""

    ranks: NDArray[np.int64]
    costs: NDArray[np.int64]
    errors: NDArray[np.float64]


def total_cost(options: Sequence[Options], picks: Sequence[int]) -> int:
    return sum(int(o.costs[i]) for o, i in zip(options, picks, strict=True))


def total_error(options: Sequence[Options], picks: Sequence[int]) -> float:
    return float(sum(o.errors[i] for o, i in zip(options, picks, strict=True)))


def improved(
    options: Sequence[Options], picks: Sequence[int], budget: int, price: float
) -> list[int]:
    """Options of no more error than `picks` within the budget: the optimum when at most NODES
    partial solutions remain in question, else the best of those looked at."""
    best = list(picks)
    if price <= 0:
        return best  # the budget binds nothing: every layer has its least error already
    priced = [o.errors + price * o.costs for o in options]
    excess = [p - p.min() for p in priced]
    bound = float(sum(p.min() for p in priced)) - price * budget
    gap = _gap(options, best, bound)
    # Least excess first, so that good solutions come early and prune the rest.
    orders = [np.argsort(e, kind="stable") for e in excess]
    cheapest = [
        int(o.costs[np.flatnonzero(e <= gap)].min()) for o, e in zip(options, excess, strict=True)
    ]
    least_after = np.append(np.cumsum(cheapest[::-1])[::-1], 0).tolist()

    layers, nodes = len(options), 0
    tried, chosen = [0] * layers, [0] * layers
    used, cost = [0.0] * (layers + 1), [0] * (layers + 1)
    depth = 0
    while depth >= 0 and nodes < NODES:
        order = orders[depth]
        position = tried[depth]
        tried[depth] += 1
        option = int(order[position]) if position < len(order) else -1
        if option < 0 or used[depth] + float(excess[depth][option]) >= gap:
            tried[depth] = 0  # the others exceed it more
            depth -= 1
            continue
        nodes += 1
        spent = cost[depth] + int(options[depth].costs[option])
        if spent + least_after[depth + 1] > budget:
            continue
        chosen[depth] = option
        used[depth + 1] = used[depth] + float(excess[depth][option])
        cost[depth + 1] = spent
        if depth + 1 < layers:
            depth += 1
        elif total_error(options, chosen) < total_error(options, best):
            best = list(chosen)
            gap = _gap(options, best, bound)
    return best


def _gap(options: Sequence[Options], picks: Sequence[int], bound: float) -> float:
    """How much excess a better solution may have, a rounding more."""
    error = total_error(options, picks)
    return error - bound + ROUNDING * abs(bound)
