"""Matrices with known spectra, and float64 references, for the tests of the numeric parts."""

from __future__ import annotations

import numpy as np
import torch

from rankpress.names import Rule
from worker.linalg.spectrum import Decomposition

KINDS = ("gauss", "flat", "power", "steep", "step", "clustered", "deficient", "decaying")
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99, 0.9999, 1.0)


def spectrum(kind: str, r: int) -> np.ndarray:
    """s_1 >= ... >= s_r of the named kind, float64."""
    i = np.arange(1, r + 1, dtype=np.float64)
    return {
        "flat": np.ones(r),
        "power": 1 / i,
        "steep": i**-2,
        "step": np.where(i <= max(1, r // 4), 1.0, 0.01),
        "clustered": 2.0 ** -np.ceil(i / 10),
        "deficient": np.where(i <= max(1, r // 3), 1 / i, 0.0),
        "decaying": 0.95**i,
    }[kind]


def matrix(kind: str, m: int, n: int, dtype: torch.dtype = torch.float32, seed: int = 0):
    """An m x n matrix whose singular values are spectrum(kind), up to the rounding of `dtype`."""
    rng = np.random.default_rng([seed, m, n, len(kind)])
    r = min(m, n)
    if kind == "gauss":
        return torch.from_numpy(rng.standard_normal((m, n))).to(dtype)
    left = np.linalg.qr(rng.standard_normal((m, r)))[0]
    right = np.linalg.qr(rng.standard_normal((n, r)))[0]
    return torch.from_numpy((left * spectrum(kind, r)) @ right.T).to(dtype)


def exact_values(weight: torch.Tensor) -> np.ndarray:
    """Singular values by numpy in float64."""
    return np.linalg.svd(weight.double().numpy(), compute_uv=False)


def error_and_optimum(weight: torch.Tensor, d: Decomposition, k: int) -> tuple[float, float]:
    """(||W - left right||, least possible), both over ||W||, in float64."""
    left, right = d.factors(k)
    exact = weight.double()
    error = float(torch.linalg.norm(exact - left.double() @ right.double()))
    s = exact_values(weight)
    norm = float(np.linalg.norm(s))
    return error / norm, float(np.linalg.norm(s[k:])) / norm


def reference_rank(rule: Rule, s: np.ndarray, m: int, n: int, tau: float | None, eps: float) -> int:
    """METHOD's table, written out a second time and plainly."""
    s = s / s[0]
    r = len(s)
    if rule is Rule.RATIO:
        return max(1, min(r, int(np.floor(tau * m * n / (m + n)))))
    if rule is Rule.EFFECTIVE_RANK:
        p = s / s.sum()
        h = -sum(x * np.log(x) for x in p if x > 0)
        return max(1, min(r, int(np.ceil(np.exp(h)))))
    if rule is Rule.GAVISH_DONOHO:
        b = min(m, n) / max(m, n)
        w = 0.56 * b**3 - 0.95 * b**2 + 1.82 * b + 1.43
        return max(1, sum(1 for x in s if x > w * np.median(s)))
    if tau == 1:
        return max(1, sum(1 for x in s if x > eps * max(m, n)))
    if rule is Rule.ENERGY:
        parts = s**2
    else:
        p = s if rule is Rule.ENTROPY else s**2
        p = p / p.sum()
        parts = np.array([-x * np.log(x) if x > 0 else 0.0 for x in p])
    total, target = 0.0, tau * parts.sum()
    for k, part in enumerate(parts, start=1):
        total += part
        if total >= target:
            return k
    return r
