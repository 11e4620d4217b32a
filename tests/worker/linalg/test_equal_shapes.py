"""What a GPU's batch gives is what each matrix alone gives; here on the CPU, by the same code."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch

from rankpress.names import Rule
from tests.worker.spectra import error_and_optimum, exact_values, matrix, reference_rank
from worker.factorise.viewed import certain_rank
from worker.linalg import equal_shapes
from worker.linalg.equal_shapes import Prepared, prepared
from worker.linalg.scaling import NonFinite
from worker.linalg.spectrum import Decomposition, decompose

CPU = torch.device("cpu")
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def of_batch(weights: Sequence[torch.Tensor]) -> list[Prepared | None]:
    (found,) = prepared([lambda: weights], CPU)
    return found


def decomposed(weights: Sequence[torch.Tensor]) -> list[Decomposition]:
    return [decompose(w, prepared=p) for w, p in zip(weights, of_batch(weights), strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (64, 64)], ids=str)
def test_ranks_and_factors_are_those_of_each_alone(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    kinds = ("gauss", "power", "step", "decaying")
    weights = [matrix(kind, *shape, dtype, seed=2) for kind in kinds]
    weights.append(matrix("power", *shape, dtype) * 2.0**60)  # not plain: it is scaled
    for weight, d in zip(weights, decomposed(weights), strict=True):
        assert d.driver == f"gram_eigh_{'float64' if dtype == torch.float64 else 'float32'}"
        s = exact_values(weight)
        for tau in (0.5, 0.9, 0.9999):
            wanted = reference_rank(Rule.ENTROPY, s, *shape, tau, d.eps)
            assert certain_rank(d, Rule.ENTROPY, tau) == wanted
        error, optimum = error_and_optimum(weight, d, 20)
        assert error <= 1.0001 * optimum + 16 * d.eps


def test_what_cannot_be_in_a_batch_is_left_to_itself() -> None:
    weights = [matrix("gauss", 50, 40, seed=i) for i in range(4)]
    weights[1] = torch.zeros(50, 40)
    weights[2][3, 3] = torch.nan
    first, zero, nan, last = of_batch(weights)
    assert first is not None
    assert last is not None
    assert zero is nan is None
    assert decompose(weights[1], prepared=zero).is_zero
    with pytest.raises(NonFinite):
        decompose(weights[2], prepared=nan)
    assert decompose(weights[3], prepared=last).singular_values == pytest.approx(
        exact_values(weights[3]), rel=1e-3
    )


@pytest.mark.parametrize("error", [RuntimeError("no convergence"), torch.OutOfMemoryError("full")])
def test_a_batch_that_fails_is_decomposed_one_by_one(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(equal_shapes, "gram_eigh_together", fails)
    weights = [matrix("gauss", 50, 40, seed=i) for i in range(2)]
    for weight, d in zip(weights, decomposed(weights), strict=True):
        assert d.driver == "gram_tridiagonal_float32"
        assert d.singular_values == pytest.approx(exact_values(weight), rel=1e-3)


def test_a_basis_that_fails_its_check_is_computed_in_float64() -> None:
    weight = matrix("decaying", 300, 200)
    (d,) = decomposed([weight])
    # A tail that a float32 Gram matrix cannot resolve.
    error, optimum = error_and_optimum(weight, d, 180)
    assert d.driver == "gram_tridiagonal_float64"
    assert error <= 1.0001 * optimum + 16 * d.eps


def test_the_next_batch_is_on_its_way_meanwhile() -> None:
    """And no more than that one."""
    begun = [threading.Event() for _ in range(3)]

    def load(i: int) -> list[torch.Tensor]:
        begun[i].set()
        return [matrix("gauss", 50, 40, seed=i)]

    found = prepared([lambda i=i: load(i) for i in range(3)], CPU)
    assert not begun[0].is_set()
    for i in range(3):
        assert len(next(found)) == 1
        if i < 2:
            assert begun[i + 1].wait(30)
        assert not any(event.is_set() for event in begun[i + 2 :])
    assert next(found, None) is None
    assert list(prepared([], CPU)) == []


def test_an_error_of_a_file_comes_out() -> None:
    def load() -> list[torch.Tensor]:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(prepared([load], CPU))
