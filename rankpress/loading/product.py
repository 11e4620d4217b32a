"""Left times right, for each kind of matrix view. M rows, N columns, K rank, E experts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankpress.names import Kind
from rankpress.schemas.manifest import ManifestLayer

Shape = tuple[int, ...]


def factor_shapes(layer: ManifestLayer) -> tuple[Shape, Shape]:
    """The shapes (right, left) that the layer's factors must have in the file."""
    shape, k = layer.shape, layer.rank
    match layer.kind:
        case Kind.MATRIX if len(shape) == 2:
            return (k, shape[1]), (shape[0], k)
        case Kind.CONVOLUTION if len(shape) >= 3:
            return (k, *shape[1:]), (shape[0], k, *(1,) * (len(shape) - 2))
        case Kind.CONVOLUTION_SPATIAL if len(shape) == 4:
            return (k, shape[1], 1, shape[3]), (shape[0], k, shape[2], 1)
        case Kind.EXPERTS if len(shape) == 3:
            return (shape[0], k, shape[2]), (shape[0], shape[1], k)
        case _:
            n = math.prod(shape[1:])
            return (k, n), (shape[0], k)


def multiply(kind: Kind, shape: Shape, right: Tensor, left: Tensor) -> Tensor:
    """The stored tensor of `shape`, in the factors' dtype, differentiable in both."""
    match kind:
        case Kind.CONVOLUTION_SPATIAL:
            # [M, K, kh, 1], [K, in, 1, kw] -> [M, in, kh, kw]
            return torch.einsum("mkh,kiw->mihw", left.squeeze(3), right.squeeze(2))
        case Kind.EXPERTS:
            return left @ right  # [E, M, K] @ [E, K, N]
        case _:
            left_MK = left.reshape(shape[0], -1)
            return (left_MK @ right.reshape(left_MK.shape[1], -1)).reshape(shape)
