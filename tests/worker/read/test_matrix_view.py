from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from rankpress.names import Kind
from worker.read.matrix_view import MatrixView, candidate_views

SHAPES = {
    "fc.weight": (6, 4),
    "conv1d.weight": (6, 4, 3),
    "conv2d.weight": (6, 4, 3, 5),
    "conv3d.weight": (6, 4, 3, 2, 5),
    "experts.weight": (3, 6, 4),
}


def views() -> list[tuple[str, MatrixView]]:
    return [(f"{n}-{v.kind}", v) for n, s in SHAPES.items() for v in candidate_views(n, s)]


def tensor_of(view: MatrixView, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(view.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def svd_factors(view: MatrixView, tensor: torch.Tensor, k: int):
    """Stored (right, left) at rank k by a plain SVD."""
    parts = [torch.linalg.svd(w, full_matrices=False) for w in view.to_matrices(tensor)]
    return view.factor_tensors([p.Vh[:k] for p in parts], [p.U[:, :k] * p.S[:k] for p in parts])


@pytest.mark.parametrize(("name", "view"), views(), ids=[n for n, _ in views()])
def test_full_rank_factors_multiply_back_to_the_stored_tensor(name: str, view: MatrixView) -> None:
    tensor = tensor_of(view)
    right, left = svd_factors(view, tensor, view.full_rank)
    assert torch.allclose(view.to_tensor(left, right), tensor, atol=1e-12)


@pytest.mark.parametrize(("name", "view"), views(), ids=[n for n, _ in views()])
def test_stored_factors_have_their_shapes_and_own_their_bytes(name: str, view: MatrixView) -> None:
    right, left = svd_factors(view, tensor_of(view), 2)
    assert (tuple(right.shape), tuple(left.shape)) == view.factor_shapes(2)
    for factor in (right, left):
        assert factor.is_contiguous()
        assert factor.untyped_storage().nbytes() == factor.nbytes
    assert right.numel() + left.numel() == view.count * 2 * (view.m + view.n)


@pytest.mark.parametrize(("name", "view"), views(), ids=[n for n, _ in views()])
def test_factor_matrices_undo_factor_tensors(name: str, view: MatrixView) -> None:
    rights = [torch.randn(2, view.n) for _ in range(view.count)]
    lefts = [torch.randn(view.m, 2) for _ in range(view.count)]
    got_rights, got_lefts = view.factor_matrices(*view.factor_tensors(rights, lefts))
    assert all(torch.equal(a, b) for a, b in zip(got_rights, rights, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(got_lefts, lefts, strict=True))


def test_a_linear_layer_is_two() -> None:
    (view,) = candidate_views("fc.weight", (6, 4))
    weight, x = torch.randn(6, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    right, left = svd_factors(view, weight, 4)
    assert right.shape == (4, 4)
    assert left.shape == (6, 4)
    assert torch.allclose(
        functional.linear(functional.linear(x, right), left), functional.linear(x, weight)
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("shape", "convolve"),
    [
        ((6, 4, 3), functional.conv1d),
        ((6, 4, 3, 5), functional.conv2d),
        ((6, 4, 3, 2, 5), functional.conv3d),
    ],
)
def test_a_convolution_is_two(shape, convolve, stride: int) -> None:
    view = candidate_views("conv.weight", shape)[0]
    assert view.kind is Kind.CONVOLUTION
    weight = tensor_of(view)
    right, left = svd_factors(view, weight, view.full_rank)
    x = torch.randn(2, 4, *(11 for _ in shape[2:]), dtype=torch.float64)
    both = convolve(convolve(x, right, stride=stride, padding=1), left)
    assert torch.allclose(both, convolve(x, weight, stride=stride, padding=1))


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_a_spatial_convolution_is_two(stride: tuple[int, int]) -> None:
    view = candidate_views("conv.weight", (6, 4, 3, 5))[1]
    assert view.kind is Kind.CONVOLUTION_SPATIAL
    assert (view.m, view.n) == (18, 20)
    weight = tensor_of(view)
    right, left = svd_factors(view, weight, view.full_rank)
    x = torch.randn(2, 4, 12, 13, dtype=torch.float64)
    first = functional.conv2d(x, right, stride=(1, stride[1]), padding=(0, 2))
    both = functional.conv2d(first, left, stride=(stride[0], 1), padding=(1, 0))
    assert torch.allclose(both, functional.conv2d(x, weight, stride=stride, padding=(1, 2)))


def test_experts_of_lower_rank_are_padded_with_zeros() -> None:
    (view,) = candidate_views("experts.weight", (3, 6, 4))
    rights = [torch.randn(k, 4) for k in (1, 3, 2)]
    lefts = [torch.randn(6, k) for k in (1, 3, 2)]
    right, left = view.factor_tensors(rights, lefts)
    assert right.shape == (3, 3, 4)
    assert left.shape == (3, 6, 3)
    assert not right[0, 1:].any()
    products = view.to_tensor(left, right)
    for got, a, b in zip(products, lefts, rights, strict=True):
        assert torch.allclose(got, a @ b, atol=1e-6)


def test_a_stack_is_not_one_matrix() -> None:
    (view,) = candidate_views("experts.weight", (3, 6, 4))
    with pytest.raises(ValueError, match="3 experts"):
        view.to_matrix(torch.zeros(3, 6, 4))
    (view,) = candidate_views("fc.weight", (6, 4))
    assert view.to_matrix(torch.zeros(6, 4)).shape == (6, 4)


@pytest.mark.parametrize(
    ("name", "shape", "kinds"),
    [
        ("fc", (6, 4), [Kind.MATRIX]),
        ("c", (64, 32, 3), [Kind.CONVOLUTION]),
        ("c", (1024, 64, 128), [Kind.CONVOLUTION]),  # a long kernel, but more outputs than inputs
        ("c", (64, 32, 3, 3), [Kind.CONVOLUTION, Kind.CONVOLUTION_SPATIAL]),
        ("c", (64, 32, 1, 1), [Kind.CONVOLUTION]),
        ("c", (64, 32, 1, 7), [Kind.CONVOLUTION]),  # its spatial form is the same matrix
        ("c", (64, 32, 3, 3, 3), [Kind.CONVOLUTION]),
        ("mlp.gate_up_proj", (8, 256, 128), [Kind.EXPERTS]),
        ("mlp.experts.w", (64, 32, 16), [Kind.EXPERTS]),
        ("block.MoE.w", (64, 32, 16), [Kind.EXPERTS]),
        ("depthwise", (64, 1, 3, 3), []),
        ("depthwise", (64, 1, 3), []),
        ("vector", (64,), []),
        ("scalar", (), []),
        ("empty", (0, 7), []),
        ("six", (2, 2, 2, 2, 2, 2), []),
    ],
)
def test_candidates(name: str, shape: tuple[int, ...], kinds: list[Kind]) -> None:
    assert [v.kind for v in candidate_views(name, shape)] == kinds
