"""How many singular values each rule keeps: pure float64 functions of a spectrum.

Throughout, `s` holds the singular values s_1 >= ... >= s_r >= 0 of a matrix of M rows and N
columns, r = min(M, N), and tau is the threshold in (0, 1]. Everything is computed on s / s_1, since
squares under- and overflow; "smallest k" is inclusive and lies in [1, r].
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from rankpress.names import Rule
from rankpress.views import break_even_rank as break_even_rank
from worker.ranks.evbmf import evbmf_rank

Spectrum = NDArray[np.float64]
EPS_FLOAT64 = float(np.finfo(np.float64).eps)


def rank_for(
    rule: Rule,
    s: Spectrum,
    m: int,
    n: int,
    threshold: float | None = None,
    *,
    eps: float = EPS_FLOAT64,
) -> int:
    """The rank that `rule` keeps, in [1, r].

    `eps` is the machine epsilon of the precision that the matrix is held in: what lies below it
    is rounding and not signal. `threshold` = 1 is lossless for the rules that weigh singular
    values: the numerical rank. Raises ValueError for a spectrum that is zero, for a missing
    threshold, and for the rules `budget` and `auto`, which look at the whole model.
    """
    s = scaled(s)
    if rule.uses_threshold:
        if threshold is None or not 0 < threshold <= 1:
            raise ValueError(f"the rule {rule} needs a threshold in (0, 1], not {threshold}")
        if rule is Rule.RATIO:
            return ratio_rank(m, n, threshold)
        if threshold == 1:
            return numerical_rank(s, m, n, eps=eps)
        return smallest_rank(contributions(rule, s, eps=eps), threshold)
    match rule:
        case Rule.EFFECTIVE_RANK:
            return effective_rank(s)
        case Rule.GAVISH_DONOHO:
            return gavish_donoho_rank(s, m, n)
        case Rule.EVBMF:
            return _clamp(evbmf_rank(s, m, n), len(s))
    raise ValueError(f"the rule {rule} does not choose the rank of one layer")


def scaled(s: Spectrum) -> Spectrum:
    """s / s_1 in float64. Raises ValueError when s is empty, not finite or all zero."""
    s = np.asarray(s, dtype=np.float64)
    if s.ndim != 1 or s.size == 0 or not np.isfinite(s).all() or s[0] <= 0:
        raise ValueError("a spectrum is finite and has a positive first value")
    scaled_s: Spectrum = s / s[0]
    return scaled_s


def contributions(rule: Rule, s: Spectrum, *, eps: float = EPS_FLOAT64) -> Spectrum:
    """What each singular value adds to the sum that a threshold rule reads, for scaled `s`.

    `entropy` (ARSVD v2, arXiv 2504.20078): -p ln p with p = s / sum(s). `entropy_squared`: the
    same with p = s^2 / sum(s^2). `energy` (ARSVD v1): s^2. For the entropies, values
    up to `noise_floor` count as zero: in a matrix of rank 1 the noise would otherwise be the whole
    entropy, since the one real value adds -1 ln 1 = 0.
    """
    if rule is Rule.ENERGY:
        return s * s
    s = np.where(s > noise_floor(len(s), eps), s, 0.0)
    power = s if rule is Rule.ENTROPY else s * s
    h: Spectrum = entr(power / power.sum())
    return h


def noise_floor(r: int, eps: float) -> float:
    """Up to here a scaled singular value is rounding: of the storage, or of r float64 sums."""
    return max(eps, r * EPS_FLOAT64)


def smallest_rank(parts: Spectrum, threshold: float) -> int:
    """Smallest k with parts_1 + ... + parts_k >= threshold * (the sum of all), in [1, len].

    Sums that differ by less than their own rounding are equal: 9 of 10 equal parts reach 0.9.
    """
    cumulative = np.cumsum(parts)
    target = threshold * cumulative[-1] * (1 - len(parts) * EPS_FLOAT64)
    return _clamp(int(np.searchsorted(cumulative, target, side="left")) + 1, len(parts))


def numerical_rank(s: Spectrum, m: int, n: int, *, eps: float = EPS_FLOAT64) -> int:
    """How many s_i > eps * max(m, n) * s_1, at least 1."""
    s = scaled(s)
    return _clamp(int(np.count_nonzero(s > eps * max(m, n))), len(s))


def ratio_rank(m: int, n: int, ratio: float) -> int:
    """floor(ratio * m n / (m + n)) in [1, r]: the same share of parameters in every layer."""
    exact = ratio * (m * n) / (m + n)
    return _clamp(math.floor(exact * (1 + 1e-12)), min(m, n))


def effective_rank(s: Spectrum) -> int:
    """ceil(exp(H)), H the entropy of s / sum(s) (Roy & Vetterli 2007)."""
    s = scaled(s)
    spread = math.exp(float(entr(s / s.sum()).sum()))
    return _clamp(math.ceil(spread * (1 - len(s) * EPS_FLOAT64)), len(s))


def gavish_donoho_rank(s: Spectrum, m: int, n: int) -> int:
    """How many s_i > w(b) median(s), b = min/max side (Gavish & Donoho 2014, unknown noise)."""
    s = scaled(s)
    b = min(m, n) / max(m, n)
    w = 0.56 * b**3 - 0.95 * b**2 + 1.82 * b + 1.43
    return _clamp(int(np.count_nonzero(s > w * float(np.median(s)))), len(s))


def apply_multiple(k: int, multiple: int, full_rank: int) -> int:
    """`k` rounded up to a multiple, so that what the rule keeps stays kept; full_rank at most."""
    return min(-(-k // multiple) * multiple, full_rank)


def speed_rank(m: int, n: int, min_speedup: float) -> int:
    """Largest k whose factors take m n / min_speedup operations or fewer: k (m + n) s <= m n."""
    return math.floor(m * n / ((m + n) * min_speedup) * (1 + 1e-12))


def energy_kept(s: Spectrum, k: int) -> float:
    """sum of s_i^2 for i <= k as a share of the total, in [0, 1]."""
    return _share(contributions(Rule.ENERGY, scaled(s)), k)


def entropy_kept(s: Spectrum, k: int) -> float:
    """sum of -p_i ln p_i for i <= k, p = s / sum(s), as a share of the total; 1 where that is 0."""
    return _share(contributions(Rule.ENTROPY, scaled(s)), k)


def tail_share(s: Spectrum, k: int) -> float:
    """sum of s_i^2 for i > k as a share of the total: summed by itself, since 1 - energy_kept has
    no digits left where little is lost."""
    parts = contributions(Rule.ENERGY, scaled(s))
    return float(parts[k:].sum()) / float(parts.sum())


def _share(parts: Spectrum, k: int) -> float:
    total = float(parts.sum())
    return min(1.0, float(parts[:k].sum()) / total) if total > 0 else 1.0


def _clamp(k: int, r: int) -> int:
    return max(1, min(k, r))
