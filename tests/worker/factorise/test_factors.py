from __future__ import annotations

import pytest
import torch

from tests.worker.spectra import matrix
from worker.factorise.factors import CastOverflow, balance, relative_error, store
from worker.linalg.spectrum import decompose
from worker.read.matrix_view import candidate_views

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)], ids=str)
def test_the_error_is_that_of_the_factors_as_written(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = matrix("power", *shape, dtype)
    (view,) = candidate_views("w", shape)
    factors = store([weight], [decompose(weight).factors(10)], view, dtype)
    assert factors.right.dtype == factors.left.dtype == dtype
    assert (tuple(factors.right.shape), tuple(factors.left.shape)) == view.factor_shapes(10)
    exact = weight.double()
    error = torch.linalg.norm(exact - factors.left.double() @ factors.right.double())
    assert factors.relative_error == pytest.approx(float(error / exact.norm()), rel=1e-4, abs=1e-7)


def test_both_sides_carry_the_same_norm() -> None:
    weight = matrix("decaying", 60, 40, torch.float64)
    left, right = decompose(weight).factors(7)
    a, b = balance(left, right)
    assert torch.allclose(a @ b, left @ right, atol=1e-12)
    assert torch.allclose(a.norm(dim=0), b.norm(dim=1))
    s = torch.linalg.svdvals(weight)[:7]
    assert torch.allclose(a.norm(dim=0) ** 2, s)


def test_a_term_of_norm_zero_stays_finite() -> None:
    left, right = balance(torch.zeros(3, 1), torch.ones(1, 4))
    assert torch.isfinite(left).all()
    assert torch.isfinite(right).all()


def test_a_constant_too_large_for_one_half_factor_fits_two() -> None:
    weight = torch.full((2048, 2048), 60.0, dtype=torch.float16)  # s_1 = 122880 > 65504
    left = torch.full((2048, 1), 60.0 * 2048**0.5)
    right = torch.full((1, 2048), 2048**-0.5)
    (view,) = candidate_views("w", (2048, 2048))
    factors = store([weight], [(left, right)], view, torch.float16)
    assert torch.isfinite(factors.left).all()
    assert factors.relative_error < 1e-3


@pytest.mark.parametrize("value", [1e12, 1e-20])
def test_factors_that_do_not_fit_a_half_are_refused(value: float) -> None:
    (view,) = candidate_views("w", (8, 6))
    pair = (torch.full((8, 1), value), torch.full((1, 6), 1.0))
    with pytest.raises(CastOverflow):
        store([pair[0] @ pair[1]], [pair], view, torch.float16)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e25, 1e38])
def test_errors_of_extreme_values_are_measured(scale: float) -> None:
    weight = torch.full((30, 50), scale)
    (view,) = candidate_views("w", (30, 50))
    factors = store([weight], [decompose(weight).factors(1)], view, torch.float32)
    assert factors.relative_error < 1e-5
    wrong = relative_error([weight], factors.right, torch.zeros_like(factors.left), view)
    assert wrong == pytest.approx(1.0)


def test_the_error_of_a_stack_is_over_all_experts() -> None:
    weight = matrix("gauss", 60, 20, torch.float64).reshape(3, 20, 20)
    (view,) = candidate_views("experts", (3, 20, 20))
    pairs = [decompose(w).factors(k) for w, k in zip(weight, (3, 8, 5), strict=True)]
    factors = store(list(weight), pairs, view, torch.float64)
    assert factors.rank == 8
    product = view.to_tensor(factors.left, factors.right)
    wanted = float((weight - product).norm() / weight.norm())
    assert factors.relative_error == pytest.approx(wanted, rel=1e-9)


def test_errors_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix("gauss", 60, 40)
    (view,) = candidate_views("w", (60, 40))
    pair = decompose(weight).factors(10)
    whole = store([weight], [pair], view, torch.float32).relative_error
    monkeypatch.setattr("worker.linalg.residual.BLOCK_ELEMENTS", 100)
    assert store([weight], [pair], view, torch.float32).relative_error == pytest.approx(
        whole, rel=1e-6
    )
