"""The spectrum engine: singular values first, vectors when they are asked for, checked always.

`decompose` tries drivers from fast to safe. A float32 Gram matrix gives values to about 1e-6 of
s_1^2, which decides nearly every rank; where it does not (`refine`), and where a basis fails its
check, the next driver takes over: a float64 Gram matrix, then QR and SVD in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from worker.linalg import lapack
from worker.linalg.certainty import tail_error
from worker.linalg.drivers import PASSING, Driver, GramEigh, GramTridiagonal, QrSvd
from worker.linalg.equal_shapes import Prepared
from worker.linalg.kept import Forms
from worker.linalg.residual import plain_energy, project, residual_energy
from worker.linalg.scaling import precision_of, scaled
from worker.ranks.rules import Spectrum

SMALL_SIDE = 32  # up to here the safe driver costs nothing
LARGEST_SIDE = 32768  # beyond it LAPACK's 32-bit sizes overflow
ORTHOGONALITY = 256.0  # allowed deviation from orthonormal, in units of eps * sqrt(side)
OPTIMALITY = 1.0001  # allowed error, in units of the least one at that rank
DIFFERENCE = 1e-3  # share of the energy from which ||W||^2 - ||W V||^2 tells the error
# How exact the tail's energy must be for its basis to be used. Measured: where a Gram matrix leaves
# it uncertain by 0.5 %, the error of the basis exceeds the optimum by less than 1e-5 (it is second
# order); at 5 % by up to 2e-3.
RESOLVED = 2e-3
ROUNDING = 16.0  # what a product's own rounding adds to an error, in units of eps * ||W||


class NumericalFailure(ArithmeticError):
    """Every driver failed, or failed its check."""


class Decomposition:
    """The spectrum of one matrix weight_MN, and its factors at any rank.

    `singular_values` are in the matrix's own units, float64, descending, min(m, n) of them;
    `gram_eps` says how exact they are: see worker.linalg.certainty.
    """

    def __init__(
        self,
        weight_MN: torch.Tensor,
        *,
        device: torch.device,
        forms: Forms | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        if weight_MN.ndim != 2 or 0 in weight_MN.shape or not weight_MN.dtype.is_floating_point:
            raise ValueError(f"no real matrix: {weight_MN.dtype}, shape {tuple(weight_MN.shape)}")
        self.m, self.n = weight_MN.shape
        self._wide = self.m < self.n
        self.dtype = precision_of(weight_MN.dtype)
        given = scaled(weight_MN, device) if prepared is None else prepared.scaled
        self._exponent, self._tall_PQ = given.exponent, given.tall
        self.is_zero = self._exponent is None
        self._energy = 0.0 if self.is_zero else plain_energy(given.matrix)
        first = None if prepared is None else prepared.driver
        self._untried = _ladder(self._tall_PQ, self.dtype, forms, first)
        self._drivers: list[Driver] = []  # those that succeeded; the values are of the last
        self._s = np.zeros(self.full_rank)
        if not self.is_zero and not self.refine():
            raise NumericalFailure("no driver could decompose the matrix")

    @property
    def full_rank(self) -> int:
        return min(self.m, self.n)

    @property
    def eps(self) -> float:
        """Machine epsilon of the precision that the matrix is computed in."""
        return torch.finfo(self.dtype).eps

    @property
    def driver(self) -> str:
        """Which driver the values came from."""
        return self._drivers[-1].name if self._drivers else "none"

    @property
    def singular_values(self) -> Spectrum:
        return self._unscaled(self._s)

    @property
    def gram_eps(self) -> float:
        """Epsilon of the Gram matrix that the values came from; 0 once the safe driver has run."""
        return self._drivers[-1].gram_eps if self._drivers else 0.0

    def refine(self) -> bool:
        """Moves on to the next driver that succeeds. False when there is none left."""
        if self._drivers:  # values that are refined are those of a layer that is cut, most often
            self._drivers[-1].expect_basis()
        for make in self._untried:
            try:
                driver = make()
                s = driver.values()
            except PASSING:
                continue
            if self._plausible(s):
                self._drivers.append(driver)
                self._s = s
                return True
        return False

    def factors(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(left_MK, right_KN) in the compute precision, on the compute device.

        One of the two is orthonormal up to a power of two, the other carries the singular values.
        Signs are such that the largest entry of each orthonormal vector is positive. Raises
        NumericalFailure when no driver's basis passes its check, ValueError for a rank outside
        [1, min(m, n)] or a zero matrix.
        """
        if not 1 <= k <= self.full_rank or not self._drivers:
            raise ValueError(f"rank {k} outside [1, {self.full_rank}], or a zero matrix")
        basis_QK, projected_PK = self._checked_factors(k)
        if exponent := self._exponent or 0:
            # The scale goes to both sides: one alone might not hold s_1, or not the scale.
            basis_QK = basis_QK * 2.0 ** (exponent // 2)
            projected_PK = projected_PK * 2.0 ** (exponent - exponent // 2)
        if self._wide:
            return basis_QK, projected_PK.T
        return projected_PK, basis_QK.T

    def _checked_factors(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(basis_QK, projected_PK) of the fastest driver that passes. Values that had to be refined
        to decide a rank say nothing against the basis of the driver before."""
        tried = 0
        while True:
            for driver in self._drivers[tried:]:
                tried += 1
                found = self._try_factors(driver, k) if self._resolves(driver, k) else None
                if found is not None:
                    return found
            if not self.refine():
                raise NumericalFailure(f"no driver's rank {k} passes its check")

    def _plausible(self, s: Spectrum) -> bool:
        """Finite, positive, and the squares add up to the matrix's own energy."""
        if not np.isfinite(s).all() or s[0] <= 0:
            return False
        return abs(float((s * s).sum()) / self._energy - 1) < 1e-3

    def _try_factors(self, driver: Driver, k: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(basis_QK, projected_PK), or None when the driver fails or the result is not right."""
        try:
            basis = driver.basis(k).to(self._tall_PQ.device, self.dtype)
            basis = basis * _signs(basis)
            projected = project(self._tall_PQ, basis)
            if not _orthonormal(basis, self.eps) or not self._near_optimal(basis, projected, k):
                return None
        except PASSING:
            return None
        return basis, projected

    def _resolves(self, driver: Driver, k: int) -> bool:
        """Whether the driver is exact enough for its basis of rank k to be worth computing."""
        tail = float((self._s[k:] ** 2).sum())
        unsure = tail_error(self._s, k, driver.gram_eps)
        return unsure <= RESOLVED * tail or tail + unsure <= self._rounding**2

    @property
    def _rounding(self) -> float:
        """What the rounding of a product alone may add to ||W - left right||_F."""
        return ROUNDING * self.eps * math.sqrt(self._energy)

    def _near_optimal(self, basis: torch.Tensor, projected: torch.Tensor, k: int) -> bool:
        """The error against the Eckart-Young bound, which is the tail of the spectrum."""
        tail = float((self._s[k:] ** 2).sum())
        error = self._energy - plain_energy(projected)
        if tail < DIFFERENCE * self._energy:  # the difference of two near numbers says nothing
            error = residual_energy(self._tall_PQ, projected, basis.T)
        allowed = OPTIMALITY * math.sqrt(tail) + self._rounding
        return math.isfinite(error) and error <= allowed**2

    def _unscaled(self, s: Spectrum) -> Spectrum:
        unscaled: Spectrum = np.ldexp(s, self._exponent or 0)
        return unscaled


def _ladder(
    tall_PQ: torch.Tensor, precision: torch.dtype, forms: Forms | None, first: Driver | None
) -> Iterator[Callable[[], Driver]]:
    """Drivers from fast to safe; the last ones run on the CPU, whatever the device.

    No method: a generator that knew its Decomposition would keep it, and the matrix, until the
    garbage collector comes by, which counts objects and not gigabytes.
    """
    side, on_cpu = tall_PQ.shape[1], tall_PQ.device.type == "cpu"
    if first is not None:
        yield lambda: first
    if side > SMALL_SIDE:
        kept = None if forms is None else forms.of(tall_PQ)
        for dtype in dict.fromkeys((precision, torch.float64)):
            if first is not None and dtype == precision:
                continue
            if on_cpu and lapack.available() and side <= LARGEST_SIDE:
                yield lambda dtype=dtype: GramTridiagonal(tall_PQ, dtype, kept)  # type: ignore[misc]
            else:
                yield lambda dtype=dtype: GramEigh(tall_PQ, dtype)  # type: ignore[misc]
    yield lambda: QrSvd(tall_PQ.cpu())


def decompose(
    weight_MN: torch.Tensor,
    *,
    device: torch.device | str = "cpu",
    forms: Forms | None = None,
    prepared: Prepared | None = None,
) -> Decomposition:
    """The decomposition of a real matrix of any floating dtype, computed on `device`; on the CPU
    from the kept `forms`, where the matrix was met before; from where it was `prepared`, if so.

    Half precisions are computed in float32. A matrix that does not fit into the device's memory is
    computed on the CPU. Raises NonFinite for inf or nan, NumericalFailure when no driver works or
    there is no memory, ValueError for what is no real matrix. A zero matrix decomposes to zeros.
    """
    device = torch.device(device)
    if device.type != "cpu":
        try:
            return Decomposition(weight_MN, device=device, prepared=prepared)
        except torch.OutOfMemoryError:
            prepared = None
            torch.cuda.empty_cache()
    cpu = torch.device("cpu")
    try:
        return Decomposition(weight_MN, device=cpu, forms=forms, prepared=prepared)
    except PASSING as error:
        raise NumericalFailure("the matrix cannot be held in memory") from error


def _signs(basis_QK: torch.Tensor) -> torch.Tensor:
    """Per column, the sign of its entry of largest magnitude (the first of them)."""
    rows = basis_QK.abs().argmax(dim=0)
    return torch.where(basis_QK.gather(0, rows[None]) < 0, -1.0, 1.0).to(basis_QK.dtype)


def _orthonormal(basis_QK: torch.Tensor, eps: float) -> bool:
    """B^T (B x) = x for four fixed vectors x: two thin products instead of a whole one."""
    side, k = basis_QK.shape
    generator = torch.Generator().manual_seed(k)
    probes = torch.randn(k, 4, generator=generator, dtype=torch.float64).to(basis_QK)
    deviation = (basis_QK.T @ (basis_QK @ probes) - probes).abs().max()
    return bool(deviation <= ORTHOGONALITY * eps * math.sqrt(side))
