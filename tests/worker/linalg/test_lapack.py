from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from worker.linalg import lapack


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(50, 20), (20, 50), (3, 1), (1, 4), (7, 2), (150, 130)])
def test_the_parts_make_an_eigendecomposition(shape: tuple[int, int], dtype: type) -> None:
    rows = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    wide = shape[0] < shape[1]
    side = min(shape)
    gram = np.zeros((side, side), dtype, order="F")
    lapack.add_gram(gram, rows, transpose=wide)
    exact = rows.astype(np.float64) @ rows.T if wide else rows.T.astype(np.float64) @ rows
    tolerance = 100 * np.finfo(dtype).eps * np.abs(exact).sum()
    assert np.abs(np.tril(gram) - np.tril(exact)).max() < tolerance

    d, e, tau = lapack.tridiagonalise(gram)
    values = lapack.eigenvalues(d, e)
    assert np.abs(values - np.linalg.eigvalsh(exact)).max() < tolerance
    again, z = lapack.eigenvectors(d, e)
    assert np.abs(values - again).max() < tolerance
    for k in {1, side}:
        vectors = lapack.rotate_back(gram, tau, np.array(z[:, -k:], order="F"))
        assert np.abs(exact @ vectors - vectors * values[-k:]).max() < tolerance
        assert np.abs(vectors.T @ vectors - np.eye(k)).max() < 100 * np.finfo(dtype).eps * side


def test_blocks_of_rows_add_up() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 8))
    whole, blocks = (np.zeros((8, 8), order="F") for _ in range(2))
    lapack.add_gram(whole, rows, transpose=False)
    for start in (0, 10, 20):
        lapack.add_gram(blocks, rows[start : start + 10], transpose=False)
    assert np.allclose(whole, blocks)


def test_this_scipy_takes_the_integers_that_are_passed() -> None:
    assert lapack.available()


def test_the_library_runs_on_one_thread() -> None:
    lapack.eigenvalues(np.ones(3), np.ones(2))
    libraries = ThreadpoolController().select(internal_api="openblas").info()
    assert libraries
    assert {library["num_threads"] for library in libraries} == {1}


def test_a_routine_that_fails_raises() -> None:
    with pytest.raises(lapack.LapackError, match="sterf"):
        lapack.eigenvalues(np.full(4, np.nan), np.full(3, np.nan))
