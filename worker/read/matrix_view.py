"""How a stored tensor is read as a matrix, and how its factors are stored.

A view only reshapes: left @ right, shaped back, is the tensor that was stored. For convolutions
the factors are kernels in their own right: applying `right`, then `left`, is the convolution by
the product (docs of the shapes: METHOD, "From a tensor to a matrix").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rankpress import views
from rankpress.names import Kind
from rankpress.views import View


@dataclass(frozen=True, kw_only=True)
class MatrixView(View):
    """A view with what is done to values."""

    def to_matrices(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The matrices weight_MN, one for each expert, without a copy where strides allow it."""
        if self.kind is Kind.EXPERTS:
            return tuple(tensor.unbind(0))
        if self.kind is Kind.CONVOLUTION_SPATIAL:
            return (tensor.permute(0, 2, 1, 3).reshape(self.m, self.n),)
        return (tensor.reshape(self.m, self.n),)

    def to_matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        """weight_MN of a view that has one matrix. Raises ValueError for a stack of experts."""
        if self.count != 1:
            raise ValueError(f"a stack of {self.count} experts is not one matrix")
        return self.to_matrices(tensor)[0]

    def factor_shapes(self, k: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The stored shapes (right, left) at rank k."""
        match self.kind:
            case Kind.EXPERTS:
                return (self.count, k, self.n), (self.count, self.m, k)
            case Kind.CONVOLUTION_SPATIAL:
                out, into, kh, kw = self.shape
                return (k, into, 1, kw), (out, k, kh, 1)
            case Kind.CONVOLUTION:
                out, into, *kernel = self.shape
                return (k, into, *kernel), (out, k, *(1 for _ in kernel))
        return (k, self.n), (self.m, k)

    def factor_tensors(
        self, rights_KN: Sequence[torch.Tensor], lefts_MK: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(right, left) in their stored shapes, contiguous and owning their storage.

        One pair of matrices for each expert, else one pair. Experts of lower rank are padded with
        zeros to the largest rank, which changes no product.
        """
        k = max(left.shape[1] for left in lefts_MK)
        right_shape, left_shape = self.factor_shapes(k)
        if self.kind is Kind.EXPERTS:
            right, left = rights_KN[0].new_zeros(right_shape), lefts_MK[0].new_zeros(left_shape)
            for i, (r, l) in enumerate(zip(rights_KN, lefts_MK, strict=True)):  # noqa: E741
                right[i, : r.shape[0]] = r
                left[i, :, : l.shape[1]] = l
            return right, left
        (right,), (left,) = rights_KN, lefts_MK
        if self.kind is Kind.CONVOLUTION_SPATIAL:
            out, _, kh, _ = self.shape
            left = left.reshape(out, kh, k).permute(0, 2, 1)
        return _owned(right, right_shape), _owned(left, left_shape)

    def factor_matrices(
        self, right: torch.Tensor, left: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """The matrices (rights_KN, lefts_MK) of stored factors: undoes `factor_tensors`."""
        if self.kind is Kind.EXPERTS:
            return tuple(right.unbind(0)), tuple(left.unbind(0))
        k = right.shape[0]
        if self.kind is Kind.CONVOLUTION_SPATIAL:
            left = left.reshape(self.shape[0], k, self.shape[2]).permute(0, 2, 1)
        return (right.reshape(k, self.n),), (left.reshape(self.m, k),)

    def to_tensor(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """left @ right of stored factors, in the stored shape and the factors' dtype; halves are
        multiplied in float32, and stay so."""
        precision = torch.promote_types(left.dtype, torch.float32)
        rights, lefts = self.factor_matrices(right.to(precision), left.to(precision))
        if self.kind is Kind.EXPERTS:
            return torch.stack([l @ r for l, r in zip(lefts, rights, strict=True)])  # noqa: E741
        product = lefts[0] @ rights[0]
        if self.kind is Kind.CONVOLUTION_SPATIAL:
            out, into, kh, kw = self.shape
            return product.reshape(out, kh, into, kw).permute(0, 2, 1, 3).contiguous()
        return product.reshape(self.shape)


def candidate_views(name: str, shape: tuple[int, ...]) -> tuple[MatrixView, ...]:
    """`rankpress.views.candidate_views`, with what is done to values."""
    return tuple(
        MatrixView(kind=v.kind, shape=v.shape, m=v.m, n=v.n, count=v.count)
        for v in views.candidate_views(name, shape)
    )


def _owned(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A contiguous tensor with a storage of just its size: a slice would be saved whole."""
    tensor = tensor.reshape(shape).contiguous()
    if tensor.untyped_storage().nbytes() != tensor.nbytes:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return tensor
