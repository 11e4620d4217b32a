"""The refit of one layer against numpy on the samples themselves, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankpress.loading.moments import Moments
from worker.aware.roots import root_of
from worker.read.matrix_view import MatrixView, candidate_views
from worker.refit.fitting import RIDGE, Fit, NoFit, Residuals, fit, residuals_of


def moments_of(rows_BL: np.ndarray) -> Moments:
    moments = Moments()
    for part in np.array_split(rows_BL, 3):
        moments.add(torch.from_numpy(part))
    return moments


def residuals(x_BN: np.ndarray, r_BM: np.ndarray, *, centred: bool) -> Residuals:
    moments = moments_of(np.concatenate([x_BN, r_BM], axis=1))
    return residuals_of(moments, x_BN.shape[1], centred=centred)


def view_of(m: int, n: int) -> MatrixView:
    return candidate_views("x.weight", (m, n))[0]


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(2, 12),
    n=st.integers(2, 12),
    samples=st.integers(3, 60),
    data=st.data(),
    seed=st.integers(0, 10_000),
    biased=st.booleans(),
    two_sided=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_the_error_is_that_on_the_samples_and_grows_by_rounding_alone(
    m: int, n: int, samples: int, data: st.DataObject, seed: int, biased: bool, two_sided: bool,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    k = data.draw(st.integers(1, min(m, n)))
    rng = np.random.default_rng(seed)
    weight_MN = rng.normal(size=(m, n))
    dense_BN = rng.normal(size=(samples, n)) @ rng.normal(size=(n, n)) + 3
    given_BN = dense_BN + 0.5 * rng.normal(size=(samples, n)) + 1  # what other layers made of it
    right = torch.from_numpy(rng.normal(size=(k, n))).to(dtype)
    left = torch.from_numpy(rng.normal(size=(m, k))).to(dtype)
    bias = torch.from_numpy(rng.normal(size=m)).to(dtype) if biased else None
    jacobian = rng.normal(size=(3 * m, m)) * np.geomspace(1, 0.1, m)
    rows = root_of(torch.from_numpy(jacobian.T @ jacobian)) if two_sided else None
    metric = np.eye(m) if rows is None else rows.root.numpy().T  # g^T

    def lacking(right: torch.Tensor, bias: torch.Tensor | None) -> np.ndarray:
        """g^T (y - y~) of each sample, by the factors as they are stored."""
        answers = given_BN @ right.double().numpy().T @ left.double().numpy().T
        if bias is not None:
            answers = answers + bias.double().numpy()
        return (dense_BN @ weight_MN.T - answers) @ metric.T

    before = residuals(given_BN, lacking(right, bias), centred=biased)
    assert before.error == pytest.approx((lacking(right, bias) ** 2).sum(axis=1).mean())
    found = fit(before, view_of(m, n), right, left, bias, rows)
    assert found.right.dtype == dtype
    measured = (lacking(found.right, found.bias) ** 2).sum(axis=1).mean()
    assert found.error == pytest.approx(measured, rel=1e-6, abs=1e-9 * before.error)
    if dtype == torch.float64:
        assert found.error <= before.error * (1 + 1e-9)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_numpys_ridge_regression(two_sided: bool, biased: bool) -> None:
    """The step as one least squares problem over all its numbers, the ridge as rows of its own."""
    rng = np.random.default_rng(3)
    m, n, k, samples = 5, 4, 3, 40
    x_BN, r_BM = rng.normal(size=(samples, n)) * [3, 1, 1, 0.1] + 2, rng.normal(size=(samples, m))
    right, left = rng.normal(size=(k, n)), rng.normal(size=(m, k))
    bias = rng.normal(size=m)
    g_MM = np.linalg.cholesky(np.cov(rng.normal(size=(9, m)).T)) if two_sided else np.eye(m)
    moment = torch.from_numpy(g_MM @ g_MM.T)
    rows = root_of(moment, ridge=1e-15) if two_sided else None
    metric = np.eye(m) if rows is None else rows.root.numpy().T
    found = fit(
        residuals(x_BN, r_BM @ metric.T, centred=biased),
        view_of(m, n),
        torch.from_numpy(right),
        torch.from_numpy(left),
        torch.from_numpy(bias) if biased else None,
        rows,
    )
    mean_x, mean_r = (x_BN.mean(0), r_BM.mean(0)) if biased else (np.zeros(n), np.zeros(m))
    x, r = x_BN - mean_x, r_BM - mean_r
    ridge = RIDGE * (x**2).mean()  # of the mean of the diagonal of the moment
    # vec(g^T left D x) = (x^T kron g^T left) vec(D), columns of D one after the other.
    design = np.concatenate([
        np.kron(x, metric @ left) / np.sqrt(samples),
        np.sqrt(ridge) * np.kron(np.eye(n), metric @ left),
    ])  # fmt: skip
    wanted = np.concatenate([(r @ metric.T).ravel() / np.sqrt(samples), np.zeros(m * n)])
    step = np.linalg.lstsq(design, wanted)[0].reshape(n, k).T
    np.testing.assert_allclose(found.right.numpy(), right + step, rtol=1e-8, atol=1e-8)
    if biased:
        assert found.bias is not None
        shifted = bias + mean_r - left @ step @ mean_x
        np.testing.assert_allclose(found.bias.numpy(), shifted, rtol=1e-8, atol=1e-8)
    else:
        assert found.bias is None


def tight(samples_scale: float) -> tuple[Residuals, Fit]:
    """A layer whose inputs are the dense model's own, its factors the best there are."""
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(6, 8))
    x = rng.normal(size=(100, 8)) * np.geomspace(3, 0.01, 8) * samples_scale + 5
    root = np.linalg.cholesky(np.cov(x.T, bias=True) + 1e-12 * np.eye(8))
    u, s, vt = np.linalg.svd(weight @ root)
    left, right = u[:, :2] * s[:2], vt[:2] @ np.linalg.inv(root)
    bias = (weight - left @ right) @ x.mean(0)
    lacking = x @ (weight - left @ right).T - bias
    found = residuals(x, lacking, centred=True)
    tensors = [torch.from_numpy(a) for a in (right, left, bias)]
    return found, fit(found, view_of(6, 8), tensors[0], tensors[1], tensors[2], None)


def test_nothing_is_won_where_the_inputs_are_the_same() -> None:
    """The ridge pulls towards the factor that is there, so the best one stays."""
    before, found = tight(1.0)
    assert found.error == pytest.approx(before.error, rel=1e-9)


def test_what_is_not_finite_is_no_fit() -> None:
    x, r = np.random.default_rng(0).normal(size=(20, 3)), np.ones((20, 2))
    r[4, 1] = np.inf
    with pytest.raises(NoFit, match="moments"):
        residuals(x, r, centred=True)
    r[4, 1] = 1e6  # beyond what a half holds
    half = [torch.ones(shape, dtype=torch.float16) for shape in ((1, 3), (2, 1), (2,))]
    with pytest.raises(NoFit, match="refit"):
        fit(residuals(x, 1e6 * r, centred=True), view_of(2, 3), half[0], half[1], half[2], None)
