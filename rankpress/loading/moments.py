"""Streaming second moments, in float64: the one place where they are computed."""

from __future__ import annotations

import torch


class Moments:
    """Mean and covariance of rows [*, N] that come in batches.

    Batches are merged around their own means (Chan, Golub & LeVeque 1979), so that a mean far
    larger than the spread costs no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean_N: torch.Tensor | None = None
        self._scatter_NN: torch.Tensor | None = None

    def add(self, rows_BN: torch.Tensor) -> None:
        rows = rows_BN.detach().double().cpu()
        count = rows.shape[0]
        if count == 0:
            return
        mean = rows.mean(dim=0)
        centred = rows - mean
        scatter = centred.T @ centred
        if self._mean_N is None or self._scatter_NN is None:
            self._mean_N, self._scatter_NN, self.count = mean, scatter, count
            return
        total = self.count + count
        shift = mean - self._mean_N
        self._scatter_NN += scatter + torch.outer(shift, shift) * (self.count * count / total)
        self._mean_N += shift * (count / total)
        self.count = total

    @property
    def mean(self) -> torch.Tensor:
        """Raises ValueError before the first row."""
        if self._mean_N is None:
            raise ValueError("no rows")
        return self._mean_N

    @property
    def covariance(self) -> torch.Tensor:
        """Over the rows, divided by their count. Raises ValueError before the first row."""
        if self._scatter_NN is None:
            raise ValueError("no rows")
        return self._scatter_NN / self.count


class Counts:
    """How often each of V indices came."""

    def __init__(self, size: int) -> None:
        self.counts_V = torch.zeros(size, dtype=torch.float64)

    def add(self, indices: torch.Tensor) -> None:
        found = torch.bincount(indices.detach().flatten().cpu(), minlength=len(self.counts_V))
        self.counts_V += found.double()

    @property
    def count(self) -> int:
        return int(self.counts_V.sum())

    @property
    def frequencies(self) -> torch.Tensor:
        return self.counts_V / self.counts_V.sum()


class Energy:
    """Sum of row row^T, not centred: of gradients."""

    def __init__(self) -> None:
        self.sum_MM: torch.Tensor | None = None

    def add(self, rows_BM: torch.Tensor) -> None:
        rows = rows_BM.detach().double().cpu()
        product = rows.T @ rows
        self.sum_MM = product if self.sum_MM is None else self.sum_MM + product
