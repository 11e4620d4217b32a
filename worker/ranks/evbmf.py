"""Rank by the analytic solution of empirical variational Bayes matrix factorisation.

Nakajima, Sugiyama, Babacan, Tomioka: Global analytic solution of fully-observed variational
Bayesian matrix factorization, JMLR 14 (2013), theorem 2 and its noise estimate; it needs the
singular values alone. Used by itself it keeps too few on trained weights.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

GRID_POINTS = 257


def evbmf_rank(s: NDArray[np.float64], m: int, n: int) -> int:
    """How many singular values `s` (L = min(m, n) of them, scaled to s_1 = 1) exceed the noise.

    0 when the whole matrix reads as noise.
    """
    L, M = min(m, n), max(m, n)
    alpha = L / M
    energy = np.maximum(s, np.finfo(np.float64).eps) ** 2
    tau_bar = 2.5129 * math.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    variance = _noise_variance(energy, L=L, M=M, alpha=alpha, x_bar=x_bar)
    return int(np.count_nonzero(energy > M * variance * x_bar))


def _noise_variance(
    energy: NDArray[np.float64], *, L: int, M: int, alpha: float, x_bar: float
) -> float:
    """The variance that minimises the free energy, between the bounds of corollary 3."""
    high = float(energy.sum()) / (L * M)
    tail = energy[min(max(math.ceil(L / (1 + alpha)) - 1, 0), L - 1) :]
    low = max(float(tail[0]) / (M * x_bar), float(tail.mean()) / M)
    if not low < high:
        return high

    def free_energy(log_variance: float) -> float:
        variance = math.exp(log_variance)
        x = energy / (M * variance)
        noise, signal = x[x <= x_bar], x[x > x_bar]
        shifted = signal - (1 + alpha)
        tau = 0.5 * (shifted + np.sqrt(np.maximum(shifted**2 - 4 * alpha, 0)))
        return float(
            np.sum(noise - np.log(noise))
            + np.sum(signal - tau)
            + np.sum(np.log((tau + 1) / signal))
            + alpha * np.sum(np.log(tau / alpha + 1))
        )

    # The free energy has several valleys: a grid finds the deepest, a bounded search its floor.
    grid = np.linspace(math.log(low), math.log(high), GRID_POINTS)
    best = int(np.argmin([free_energy(g) for g in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, GRID_POINTS - 1)])
    found = minimize_scalar(free_energy, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    return math.exp(found.x)
