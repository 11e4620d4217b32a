"""Ways to the singular values and the right singular vectors of a tall matrix, fast to safe.

Each driver takes tall_PQ (P >= Q, the matrix or its transpose) and gives the Q singular values and,
when asked, an orthonormal basis of the leading k right singular vectors. None ever holds a full
left factor: that is the projection tall_PQ @ basis_QK, whose error is second order in the basis's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from worker.linalg import lapack
from worker.linalg.kept import Form, Kept
from worker.linalg.parallel import Ahead
from worker.ranks.rules import Spectrum

# After these another driver may do better; torch's own errors (no convergence, no GPU memory) are
# RuntimeErrors.
PASSING = (lapack.LapackError, RuntimeError, MemoryError)
CHUNK_ELEMENTS = 1 << 23  # of a matrix, converted to another precision at once


class Driver(Protocol):
    """One decomposition of one matrix."""

    name: str
    gram_eps: float  # machine epsilon of the Gram matrix behind the values; 0 when there is none

    def values(self) -> Spectrum:
        """Singular values, descending, float64, Q of them."""
        ...

    def basis(self, k: int) -> torch.Tensor:
        """basis_QK: orthonormal columns, the leading k right singular vectors."""
        ...

    def expect_basis(self) -> None:
        """It will most likely be asked for: an idle thread may begin."""
        ...


class GramTridiagonal:
    """Gram matrix, its tridiagonal form once, then values alone or values and k vectors. CPU."""

    def __init__(self, tall_PQ: torch.Tensor, dtype: torch.dtype, kept: Kept | None = None) -> None:
        self.name = f"gram_tridiagonal_{str(dtype).removeprefix('torch.')}"
        self.gram_eps = torch.finfo(dtype).eps
        form = None if kept is None else kept.load(dtype)
        if form is None:
            form = _form(tall_PQ, dtype)
            if kept is not None:
                kept.keep(dtype, form)
        self._form = form
        self._vectors = Ahead(partial(lapack.eigenvectors, form.d, form.e))

    def values(self) -> Spectrum:
        return _roots(lapack.eigenvalues(self._form.d, self._form.e))

    def basis(self, k: int) -> torch.Tensor:
        _, z = self._vectors.result()
        leading = np.array(z[:, ::-1][:, :k], order="F")
        return torch.from_numpy(lapack.rotate_back(self._form.reflectors, self._form.tau, leading))

    def expect_basis(self) -> None:
        self._vectors.start()


class GramEigh:
    """Gram matrix and torch's symmetric eigendecomposition, on the matrix's own device."""

    def __init__(
        self,
        tall_PQ: torch.Tensor,
        dtype: torch.dtype,
        eigen: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """`eigen` are the Gram matrix's eigenvalues, ascending, and vectors, if they are known."""
        self.name = f"gram_eigh_{str(dtype).removeprefix('torch.')}"
        self.gram_eps = torch.finfo(dtype).eps
        eigenvalues, vectors = eigen or torch.linalg.eigh(_gram(tall_PQ, dtype))
        self._eigenvalues: torch.Tensor = eigenvalues
        self._vectors: torch.Tensor = vectors

    def values(self) -> Spectrum:
        return _roots(self._eigenvalues.cpu().numpy())

    def basis(self, k: int) -> torch.Tensor:
        return self._vectors[:, -k:].flip(1)

    def expect_basis(self) -> None:
        """It is there."""


def gram_eigh_together(matrices_PQ: Sequence[torch.Tensor], dtype: torch.dtype) -> list[GramEigh]:
    """A driver for each of the tall matrices, all of one shape and on one device."""
    eigen = torch.linalg.eigh(torch.stack([_gram(matrix, dtype) for matrix in matrices_PQ]))
    return [GramEigh(*each) for each in zip(matrices_PQ, repeat(dtype), zip(*eigen, strict=True))]


class QrSvd:
    """Float64 throughout: QR in row chunks, then the SVD of the square factor. Slow and safe."""

    name = "qr_svd_float64"
    gram_eps = 0.0

    def __init__(self, tall_PQ: torch.Tensor) -> None:
        size = tall_PQ.shape[1]
        triangle = torch.zeros(0, size, dtype=torch.float64, device=tall_PQ.device)
        for chunk in _chunks(tall_PQ, torch.float64, at_least=2 * size):
            triangle = torch.linalg.qr(torch.cat((triangle, chunk)), mode="r").R
        _, values, self._vectors = torch.linalg.svd(triangle, full_matrices=False)
        self._values: Spectrum = values.cpu().numpy()

    def values(self) -> Spectrum:
        return self._values

    def basis(self, k: int) -> torch.Tensor:
        leading: torch.Tensor = self._vectors[:k].T
        return leading

    def expect_basis(self) -> None:
        """It is there."""


def _gram(tall_PQ: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    gram = torch.zeros(tall_PQ.shape[1], tall_PQ.shape[1], dtype=dtype, device=tall_PQ.device)
    for chunk in _chunks(tall_PQ, dtype):
        gram.addmm_(chunk.T, chunk)
    return gram


def _form(tall_PQ: torch.Tensor, dtype: torch.dtype) -> Form:
    size = tall_PQ.shape[1]
    gram = np.zeros((size, size), np.float32 if dtype == torch.float32 else np.float64, order="F")
    for rows, transpose in _row_major_chunks(tall_PQ, dtype):
        lapack.add_gram(gram, rows.numpy(), transpose=transpose)
    d, e, tau = lapack.tridiagonalise(gram)
    return Form(reflectors=gram, d=d, e=e, tau=tau)


def _roots(eigenvalues: NDArray[np.floating]) -> Spectrum:
    """Singular values, descending, from the ascending eigenvalues of a Gram matrix."""
    return np.sqrt(np.maximum(eigenvalues[::-1].astype(np.float64), 0.0))


def _chunks(
    matrix: torch.Tensor, dtype: torch.dtype, *, at_least: int = 1
) -> Iterator[torch.Tensor]:
    """Row blocks of bounded size in `dtype`; the whole matrix when that needs no conversion."""
    step = max(CHUNK_ELEMENTS // matrix.shape[1], at_least)
    if matrix.dtype == dtype and at_least == 1:
        step = matrix.shape[0]
    for start in range(0, matrix.shape[0], step):
        yield matrix[start : start + step].to(dtype)


def _row_major_chunks(
    tall_PQ: torch.Tensor, dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, bool]]:
    """Row-major blocks whose Gram matrices add up, and whether a block is to be transposed.

    A wide matrix arrives as the transposed view of row-major storage and is used as it lies.
    """
    if tall_PQ.is_contiguous() or not tall_PQ.T.is_contiguous():
        for chunk in _chunks(tall_PQ, dtype):
            yield chunk.contiguous(), False
    elif tall_PQ.dtype == dtype:
        yield tall_PQ.T, True
    else:
        step = max(CHUNK_ELEMENTS // tall_PQ.shape[1], 1)
        for start in range(0, tall_PQ.shape[0], step):
            yield tall_PQ[start : start + step].T.to(dtype).contiguous(), True
