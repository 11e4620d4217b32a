"""Whether singular values from a Gram matrix are exact enough to decide a rank.

A Gram matrix computed with machine epsilon eps has eigenvalues s_i^2 that are off by a few
eps * s_1^2: large singular values are nearly exact, small ones are not. A rank is certain when no
error of that size could have changed it; otherwise the caller refines the values first.

The constants were measured against float64 SVDs on random, flat, stepped and power-law matrices of
up to 4096 x 1024: the largest single error grew to 1.3 sqrt(r) eps s_1^2 (float32) and 4.2 sqrt(r)
(float64, flat), the root mean square over a quarter of the spectrum to 7. Errors are not spread
evenly. Large values take most, in proportion to their size; what the others are off by on average
follows the mean of all s_i^2: up to 10 eps times that (stepped, clustered, heavy-tailed, badly
scaled, constant plus noise, and others of up to 9000 x 1500), 0.5 to 2 for trained layers.
"""

from __future__ import annotations

import math

import numpy as np

from rankpress.names import Rule
from worker.ranks.rules import (
    Spectrum,
    contributions,
    noise_floor,
    numerical_rank,
    scaled,
    smallest_rank,
)

SINGLE_ERROR = 8.0  # times sqrt(r) eps s_1^2: no eigenvalue is further off
MEAN_ERROR = 10.0  # times (1 + sqrt(r)/160) eps s_1^2: nor are many of them on average
BULK_ERROR = 16.0  # times the same and the mean of all s_i^2, beside SINGLE_ERROR's share of s_i^2
EXACT = 1e-12  # a gram_eps up to here: float64


def is_certain(
    rule: Rule, s: Spectrum, m: int, n: int, threshold: float | None, *, eps: float, gram_eps: float
) -> bool:
    """Whether `rank_for` gives the same rank for all spectra that `s` may stand for."""
    if gram_eps == 0 or rule is Rule.RATIO:
        return True
    s = scaled(s)
    if rule.uses_threshold and threshold is not None and threshold < 1:
        return _sum_is_certain(rule, s, threshold, eps, gram_eps)
    if rule.uses_threshold:
        return _numerical_rank_is_certain(s, m, n, eps, gram_eps)
    # The remaining rules are asked rarely, and read the small values too: a float64 Gram matrix
    # in which even the smallest is well above its error.
    error = SINGLE_ERROR * math.sqrt(len(s)) * gram_eps
    return bool(gram_eps <= EXACT and error <= 1e-6 * s[-1] ** 2)


def tail_error(s: Spectrum, k: int, gram_eps: float) -> float:
    """How far sum of s_i^2 for i > k may be off; errors of single values partly cancel."""
    tail = len(s) - k
    return math.sqrt(tail) * _mean_error(len(s), gram_eps) * float(s[0]) ** 2


def _mean_error(r: int, gram_eps: float) -> float:
    return MEAN_ERROR * _growth(r) * gram_eps


def _growth(r: int) -> float:
    """How mean errors grow with the number of values."""
    return 1 + math.sqrt(r) / 160


def _errors(s: Spectrum, gram_eps: float) -> Spectrum:
    """How far each s_i^2 may be off in a sum over many of them."""
    squares = s * s
    single = SINGLE_ERROR * math.sqrt(len(s)) * squares
    errors: Spectrum = gram_eps * (single + BULK_ERROR * _growth(len(s)) * float(squares.mean()))
    return errors


def _numerical_rank_is_certain(s: Spectrum, m: int, n: int, eps: float, gram_eps: float) -> bool:
    error = SINGLE_ERROR * math.sqrt(len(s)) * gram_eps
    cut = (eps * max(m, n)) ** 2
    k = numerical_rank(s, m, n, eps=eps)
    return s[k - 1] ** 2 - error > cut and (k == len(s) or s[k] ** 2 + error <= cut)


def _sum_is_certain(rule: Rule, s: Spectrum, threshold: float, eps: float, gram_eps: float) -> bool:
    """The cumulative sum passes the threshold by more than it may be off, on both sides."""
    parts = contributions(rule, s, eps=eps)
    error = _errors(s, gram_eps)
    if rule is Rule.ENERGY:
        off = error
    else:
        ds = np.sqrt(s * s + error) - s
        above_noise = s + ds > noise_floor(len(s), eps)
        if np.count_nonzero(above_noise) == 1:
            return True  # rank 1: no entropy at all
        off = _entropy_error(s, ds) if rule is Rule.ENTROPY else _entropy_error(s * s, error)
        off = np.where(above_noise, off, 0.0)
    off = np.maximum(off, len(s) * np.finfo(np.float64).eps * parts)
    reached = np.cumsum(parts) - threshold * parts.sum()
    before = np.cumsum(off)
    slack = (1 - threshold) * before + threshold * (before[-1] - before)
    k = smallest_rank(parts, threshold)
    above = reached[k - 1] >= slack[k - 1]
    return bool(above and (k == 1 or -reached[k - 2] >= slack[k - 2]))


def _entropy_error(weights: Spectrum, off: Spectrum | float) -> Spectrum:
    """How far -p ln p may be off, p = weights / sum(weights), when each weight is off by `off`."""
    total = float(weights.sum())
    p = weights / total
    dp = (off + p * float(np.sum(np.broadcast_to(off, p.shape)))) / total
    error: Spectrum = dp * (1 + np.abs(np.log(np.maximum(p, np.maximum(dp, 1e-300)))))
    return error
