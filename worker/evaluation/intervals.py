"""Closed-form confidence intervals of proportions."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import Any, TypeVar

from rankpress.schemas.report import Interval

B = TypeVar("B", bound=Any)
LEVEL = 0.95
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Wilson's score interval of one proportion (Wilson 1927)."""
    share = successes / trials
    spread = _Z * sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    centre = share + _Z**2 / (2 * trials)
    scale = 1 + _Z**2 / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mcnemar_cells(dense: B, compressed: B) -> tuple[B, B, B, B]:
    """McNemar's table of two answers to the same samples, boolean arrays or tensors, as masks: both
    are right, the dense one alone, the compressed one alone, neither."""
    d, c = dense, compressed
    return d & c, d & ~c, ~d & c, ~d & ~c


def paired_proportions(both: int, dense_only: int, compressed_only: int, neither: int) -> Interval:
    """Interval of the difference of two proportions measured on the same samples.

    Newcombe's method 10 for McNemar's table (Newcombe 1998, Statistics in Medicine 17, 2635):
    two Wilson intervals joined by the correlation of the pairs, which keeps its coverage where
    few samples disagree and never has width zero.
    """
    total = both + dense_only + compressed_only + neither
    p_dense, p_compressed = (both + dense_only) / total, (both + compressed_only) / total
    low_d, high_d = wilson(both + dense_only, total)
    low_c, high_c = wilson(both + compressed_only, total)
    phi = _correlation(both, dense_only, compressed_only, neither)
    down = (
        (p_compressed - low_c) ** 2
        - 2 * phi * (p_compressed - low_c) * (high_d - p_dense)
        + (high_d - p_dense) ** 2
    )
    up = (
        (high_c - p_compressed) ** 2
        - 2 * phi * (high_c - p_compressed) * (p_dense - low_d)
        + (p_dense - low_d) ** 2
    )
    difference = p_compressed - p_dense
    return Interval(
        low=max(-1.0, difference - sqrt(max(down, 0.0))),
        high=min(1.0, difference + sqrt(max(up, 0.0))),
        level=LEVEL,
        method="newcombe_paired",
    )


def agreement_below_one(agreeing: int, total: int) -> Interval:
    """Wilson's interval of the share of agreement, as a difference from the dense model's 1."""
    low, high = wilson(agreeing, total)
    return Interval(low=low - 1, high=min(high, 1.0) - 1, level=LEVEL, method="wilson")


def _correlation(a: int, b: int, c: int, d: int) -> float:
    """Phi of the 2 x 2 table with Newcombe's continuity correction; 0 where it is undefined."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    cross = float(a * d - b * c)
    if cross > 0:
        cross = max(cross - (a + b + c + d) / 2, 0.0)
    return cross / sqrt(margins)
