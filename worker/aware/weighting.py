"""The metric that a layer's error is measured in: g^T (W - left right) L.

With L L^T the covariance of the layer's inputs, sum_{i>k} s_i^2 of W L is the error of the outputs
on those inputs (centred); with g g^T the mean of J^T J, J the Jacobian of the model's output by the
layer's, it is to first order the error of the model's output. Either side may be left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.aware.roots import Root


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """`rows` is g, a root of an M x M moment; `columns` is L, of an N x N one. None: identity."""

    rows: Root | None = None
    columns: Root | None = None

    def apply(self, weight_MN: torch.Tensor) -> torch.Tensor:
        """g^T W L, float64."""
        weighted = weight_MN.double().cpu()
        if self.rows is not None:
            weighted = self.rows.times(weighted.T).T
        if self.columns is not None:
            weighted = self.columns.times(weighted)
        return weighted

    def undo(
        self, left_MK: torch.Tensor, right_KN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(g^{-T} left, right L^{-1}): factors of W from factors of g^T W L. float64."""
        left, right = left_MK.double().cpu(), right_KN.double().cpu()
        if self.rows is not None:
            left = self.rows.undone(left.T).T
        if self.columns is not None:
            right = self.columns.undone(right)
        return left, right
