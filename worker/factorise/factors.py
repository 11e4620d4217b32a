"""Factors as they are written: balanced, in the tensor's dtype, checked, and measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.linalg.residual import (
    PLAIN_EXPONENT,
    bounds,
    column_energies,
    plain_energy,
    residual_energy,
    row_energy,
)
from worker.linalg.scaling import precision_of
from worker.read.matrix_view import MatrixView

# How much larger than the balanced factor a cast factor may come out: a value that a half
# precision rounds up is within its own epsilon of that, an overflow is not.
NORM_TOLERANCE = 0.05
PLAIN_RANGE = 40  # binary exponents by which a factor is multiplied in its own precision


class CastOverflow(ArithmeticError):
    """The factors do not fit the tensor's dtype."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Stored factors of one tensor and the error measured on them.

    `right` and `left` have the shapes of `MatrixView.factor_shapes`; `relative_error` is
    ||W - left right||_F / ||W||_F of what is written, after the cast.
    """

    right: torch.Tensor
    left: torch.Tensor
    rank: int
    relative_error: float


def balance(left_MK: torch.Tensor, right_KN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same product with each rank-one term's norm split evenly over both sides.

    With s_k the norm of term k, both factors then hold sqrt(s_k): the smallest largest entry, so
    that halves hold products whose s_1 they could not. A term of norm zero stays as it is.
    """
    a, b = column_energies(left_MK).sqrt(), column_energies(right_KN.T).sqrt()
    scale = torch.where((a > 0) & (b > 0), torch.sqrt(b) / torch.sqrt(a), 1.0)
    low, high = bounds(scale)
    if low > 2.0**-PLAIN_RANGE and high < 2.0**PLAIN_RANGE:
        plain = scale.to(left_MK.dtype)
        return left_MK * plain, right_KN / plain[:, None]
    # By columns in float64: the scale itself may lie outside float32.
    left = (left_MK.double() * scale).to(left_MK.dtype)
    right = (right_KN.double() / scale[:, None]).to(right_KN.dtype)
    return left, right


def store(
    weights_MN: Sequence[torch.Tensor],
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
    view: MatrixView,
    dtype: torch.dtype,
) -> Factors:
    """Balances (left_MK, right_KN) pairs, casts them to `dtype` on the CPU and measures the error.

    `weights_MN` are the view's matrices, one for each pair. Raises CastOverflow when a factor is
    not finite in `dtype`, or lost or gained norm in the cast (underflow).
    """
    lefts: list[torch.Tensor] = []
    rights: list[torch.Tensor] = []
    for left, right in pairs:
        for factor, kept in zip(balance(left, right), (lefts, rights), strict=True):
            cast = factor.to(dtype)
            if not _survived(factor, cast):
                raise CastOverflow(f"a factor does not fit {dtype}")
            kept.append(cast.cpu())
    right, left = view.factor_tensors(rights, lefts)
    return Factors(
        right=right,
        left=left,
        rank=max(r.shape[0] for r in rights),
        relative_error=relative_error(weights_MN, right, left, view),
    )


def relative_error(
    weights_MN: Sequence[torch.Tensor], right: torch.Tensor, left: torch.Tensor, view: MatrixView
) -> float:
    """||W - left right||_F / ||W||_F over all matrices of the view, from the stored factors.

    Halves are multiplied in float32, as what they hold: the error is of the values written. All
    is scaled by a power of two, so that no square leaves the range. Raises CastOverflow when the
    product is not finite.
    """
    rights, lefts = view.factor_matrices(right, left)
    precision = precision_of(left.dtype)
    largest = max(max(-low, high) for low, high in map(bounds, weights_MN))
    exponent = math.frexp(largest)[1] if largest > 0 else 0
    if abs(exponent) <= PLAIN_EXPONENT:
        exponent = 0
    error = energy = 0.0
    for weight, r, l in zip(weights_MN, rights, lefts, strict=True):  # noqa: E741
        exact = _ldexp(weight.cpu(), -exponent, precision)
        half_left = _ldexp(l, -(exponent // 2), precision)
        half_right = _ldexp(r, exponent // 2 - exponent, precision)
        error += residual_energy(exact, half_left, half_right)
        energy += plain_energy(exact)
    if not math.isfinite(error):
        raise CastOverflow("the factors' product is not finite")
    return math.sqrt(error / energy) if energy > 0 else 0.0


def _survived(factor: torch.Tensor, cast: torch.Tensor) -> bool:
    """Whether all is finite, and the cast neither lost nor gained norm."""
    if not all(math.isfinite(bound) for bound in bounds(cast)):
        return False
    if cast.dtype == factor.dtype:
        return True
    after, before = row_energy(cast), row_energy(factor)
    return abs(after - before) <= NORM_TOLERANCE * before


def _ldexp(tensor: torch.Tensor, exponent: int, dtype: torch.dtype) -> torch.Tensor:
    """tensor * 2^exponent in `dtype`; a copy only where there is something to change."""
    if abs(exponent) <= PLAIN_RANGE:
        return tensor.to(dtype) * 2.0**exponent if exponent else tensor.to(dtype)
    half = exponent // 2
    return (tensor.double() * 2.0**half * 2.0 ** (exponent - half)).to(dtype)
