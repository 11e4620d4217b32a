"""A matrix as it is computed with: on the device, in the compute precision, in a plain range."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from worker.linalg.residual import PLAIN_EXPONENT, bounds


class NonFinite(ArithmeticError):
    """The matrix holds inf or nan."""


class Scaled(NamedTuple):
    """weight = matrix * 2^exponent, exactly; `exponent` is None for zeros."""

    matrix: torch.Tensor
    exponent: int | None

    @property
    def tall(self) -> torch.Tensor:
        """The matrix or its transpose, P >= Q."""
        m, n = self.matrix.shape
        return self.matrix.T if m < n else self.matrix


def precision_of(dtype: torch.dtype) -> torch.dtype:
    """What a weight of this dtype is computed in: float64 stays, all others are float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def scaled(weight: torch.Tensor, device: torch.device) -> Scaled:
    """Raises NonFinite."""
    dtype = precision_of(weight.dtype)
    low, high = bounds(weight)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NonFinite("the matrix holds inf or nan")
    largest = max(-low, high)
    if largest == 0:
        return Scaled(weight, None)
    exponent = math.frexp(largest)[1]
    if abs(exponent) <= PLAIN_EXPONENT:
        return Scaled(_on(device, weight).to(dtype), 0)
    wide = _on(device, weight).to(torch.float64)
    half = -exponent // 2  # in two steps, since 2^1074 is no float64
    return Scaled((wide * 2.0**half * 2.0 ** (-exponent - half)).to(dtype), exponent)


def _on(device: torch.device, weight: torch.Tensor) -> torch.Tensor:
    """To a GPU through pinned memory, in the weight's own dtype, without waiting for the copy:
    what is computed next on the same stream comes after it."""
    if device.type != "cuda":
        return weight.to(device)
    return weight.pin_memory().to(device, non_blocking=True)
