"""The refit of one layer: least squares on what its answers still lack, with the left factor kept.

x [N] is the layer's input in the compressed model, r [M] what the dense model's answer has more
than the compressed one's, in the layer's metric: r = g^T (y - y~), g = I where outputs count alike.
The step D of the right factor minimises E ||r - d - g^T left D (x - mean)||^2 and a ridge on
g^T left D, so that

    D = (left^T G left)^-1 left^T g E[r (x - mean)^T] (C + ridge)^-1,  G = g g^T,

C the covariance of x. As it is a step from the factor that is there, the ridge pulls towards that
one and not towards zero: a layer whose inputs have not changed is left as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rankpress.loading.moments import Moments
from worker.aware.roots import Root, root_of
from worker.read.matrix_view import MatrixView

# Ten times that of the first factors: what the layers before leave of the inputs lies near few
# directions. Tried on two networks, by the accuracy on other samples: 1e-2 to 1e-1 were alike, and
# better than 1e-3 and 1e-4.
RIDGE = 1e-2


class NoFit(ArithmeticError):
    """The numbers of a layer leave the range of its dtype."""


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """Moments of x and r over the samples, float64, about their means; about zero, the means being
    zero, for a layer that has no bias to take up a mean."""

    mean_x: torch.Tensor  # [N]
    mean_r: torch.Tensor  # [M]
    moment: torch.Tensor  # [N, N], of x
    cross: torch.Tensor  # [M, N], of r and x
    spread: float  # sum of the moments of r: its mean square, without that of its mean

    @property
    def error(self) -> float:
        """E ||r||^2, as it is."""
        return self.spread + float(self.mean_r.square().sum())

    def error_after(self, step_MN: torch.Tensor, shift_M: torch.Tensor) -> float:
        """E ||r - shift - step x||^2, both in the layer's metric (g^T on the left)."""
        inner = step_MN @ self.moment
        spread = self.spread + float((step_MN * (inner - 2 * self.cross)).sum())
        rest_M = self.mean_r - shift_M - step_MN @ self.mean_x
        # The sum is of terms that cancel, and may end up a rounding below zero.
        return max(spread, 0.0) + float(rest_M.square().sum())


def residuals_of(moments: Moments, width: int, *, centred: bool) -> Residuals:
    """From the moments of the rows [x, r], N + M long; `width` is N. Raises NoFit where they are
    not finite."""
    mean, covariance = moments.mean, moments.covariance
    if not bool(covariance.isfinite().all() and mean.isfinite().all()):
        raise NoFit("the moments are not finite")
    if not centred:
        covariance = covariance + torch.outer(mean, mean)
        mean = torch.zeros_like(mean)
    return Residuals(
        mean_x=mean[:width],
        mean_r=mean[width:],
        moment=covariance[:width, :width],
        cross=covariance[width:, :width],
        spread=float(covariance.diagonal()[width:].sum()),
    )


def step_of(residuals: Residuals, left_MK: torch.Tensor) -> torch.Tensor:
    """The step [K, N] of the right factor; `left_MK` is in the layer's metric, g^T left.

    Raises torch.linalg.LinAlgError where LAPACK finds no answer.
    """
    root = root_of(residuals.moment, RIDGE)
    whitened_MN = residuals.cross @ root.inverse.T
    solved_KN = torch.linalg.lstsq(left_MK, whitened_MN, driver="gelsd").solution
    return root.undone(solved_KN)


def into_metric(rows: Root | None, matrix_MP: torch.Tensor) -> torch.Tensor:
    """g^T matrix, float64."""
    matrix = matrix_MP.double()
    return matrix if rows is None else rows.times(matrix.T).T


def out_of_metric(rows: Root | None, vector_M: torch.Tensor) -> torch.Tensor:
    """g^{-T} vector."""
    return vector_M if rows is None else rows.undone(vector_M[None])[0]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A layer's new right factor, in its stored shape, and bias (None: it has none), in the dtypes
    of those they replace; `error` is E ||r||^2 as it is with them."""

    right: torch.Tensor
    bias: torch.Tensor | None
    error: float


def fit(
    residuals: Residuals,
    view: MatrixView,
    right: torch.Tensor,
    left: torch.Tensor,
    bias: torch.Tensor | None,
    rows: Root | None,
) -> Fit:
    """The refit of stored factors, its error that of the numbers as they are written.

    Raises NoFit where what comes of it is not finite in these dtypes, torch.linalg.LinAlgError
    where LAPACK finds no answer.
    """
    (right_KN,), (left_MK,) = view.factor_matrices(right, left)
    metric_MK = into_metric(rows, left_MK)
    new_KN = (right_KN.double() + step_of(residuals, metric_MK)).to(right.dtype)
    step_MN = metric_MK @ (new_KN.double() - right_KN.double())
    new_M, shift_M = None, torch.zeros_like(residuals.mean_r)
    if bias is not None:
        wanted_M = out_of_metric(rows, residuals.mean_r - step_MN @ residuals.mean_x)
        new_M = (bias.double() + wanted_M).to(bias.dtype)
        shift_M = into_metric(rows, (new_M.double() - bias.double())[:, None])[:, 0]
    error = residuals.error_after(step_MN, shift_M)
    if not math.isfinite(error):
        raise NoFit("the refit is not finite")
    new, _ = view.factor_tensors((new_KN,), (left_MK,))
    return Fit(right=new, bias=new_M, error=error)
