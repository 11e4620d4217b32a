"""Square roots of second moments, with the ridge that makes them invertible."""

from __future__ import annotations

from dataclasses import dataclass

import torch

RIDGE = 1e-3  # times the mean of the diagonal: every second moment that was met was singular
LARGEST_RIDGE = 1.0
# Of inputs that never vary: nothing is lost there, so their energy counts as next to nothing.
NOTHING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Root:
    """L with L L^T = C + ridge, and its inverse; 1-D when C is diagonal. float64."""

    root: torch.Tensor
    inverse: torch.Tensor

    def times(self, matrix_PN: torch.Tensor) -> torch.Tensor:
        """matrix @ L."""
        return matrix_PN * self.root if self.root.ndim == 1 else matrix_PN @ self.root

    def undone(self, matrix_PN: torch.Tensor) -> torch.Tensor:
        """matrix @ L^{-1}."""
        diagonal = self.inverse.ndim == 1
        return matrix_PN * self.inverse if diagonal else matrix_PN @ self.inverse


def root_of(moment_NN: torch.Tensor, ridge: float = RIDGE) -> Root:
    """The root of a second moment, symmetric [N, N] or a diagonal [N].

    L = Q sqrt(D) of the eigendecomposition C = Q D Q^T: any root gives the same factors. The ridge
    is `ridge` times the mean of the diagonal, ten times larger as long as C is then not positive
    definite. Raises ValueError for a moment that is not finite or has a negative diagonal,
    RuntimeError (torch.linalg.LinAlgError) when its eigenvectors cannot be found.
    """
    moment = moment_NN.double()
    diagonal = moment if moment.ndim == 1 else moment.diagonal()
    if not bool(moment.isfinite().all()) or bool((diagonal < 0).any()):
        raise ValueError("no second moment: it is not finite, or its diagonal is negative")
    mean = float(diagonal.mean())
    if mean == 0:
        ones = torch.ones_like(diagonal)
        return _root(ones * NOTHING, None)
    if moment.ndim == 1:
        return _root(moment + ridge * mean, None)
    # Around 1, so that no square leaves the range.
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2 / mean)
    values = values * mean
    while float(values[0]) + ridge * mean <= 0 and ridge < LARGEST_RIDGE:
        ridge *= 10
    # The ridge moves every eigenvalue by itself and no eigenvector.
    return _root((values + ridge * mean).clamp(min=1e-6 * mean), vectors)


def _root(values_N: torch.Tensor, vectors_NN: torch.Tensor | None) -> Root:
    roots = values_N.sqrt()
    if vectors_NN is None:
        return Root(root=roots, inverse=1 / roots)
    return Root(root=vectors_NN * roots, inverse=(vectors_NN / roots).T.contiguous())
