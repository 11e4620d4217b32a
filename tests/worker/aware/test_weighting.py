"""The weighted factors against float64 numpy: the identity of METHOD, optimality, the ridge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.aware.roots import RIDGE, root_of
from worker.aware.weighting import Weighting
from worker.factorise.viewed import ViewedTensor
from worker.read.matrix_view import MatrixView, candidate_views

CPU = torch.device("cpu")


def moment(rows_BN: np.ndarray) -> np.ndarray:
    centred = rows_BN - rows_BN.mean(axis=0)
    return centred.T @ centred / len(rows_BN)


def ridged(moment_NN: np.ndarray) -> np.ndarray:
    return moment_NN + RIDGE * np.diag(moment_NN).mean() * np.eye(len(moment_NN))


def view_of(weight: torch.Tensor) -> MatrixView:
    return candidate_views("x.weight", tuple(weight.shape))[0]


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(2, 40),
    n=st.integers(2, 40),
    samples=st.integers(3, 60),
    data=st.data(),
    seed=st.integers(0, 10_000),
    two_sided=st.booleans(),
)
def test_tail_energy_is_the_calibration_error(
    m: int, n: int, samples: int, data: st.DataObject, seed: int, two_sided: bool
) -> None:
    """sum_{i>k} s_i^2 = mean ||J (W - left right)(x - mu)||^2, the ridges' share included."""
    k = data.draw(st.integers(1, min(m, n)))
    rng = np.random.default_rng(seed)
    weight_MN = rng.normal(size=(m, n))
    # Correlated inputs with a mean far from zero, fewer samples than sides now and then.
    inputs = rng.normal(size=(samples, n)) @ rng.normal(size=(n, n)) + 5
    jacobian_BM = rng.normal(size=(samples, m)) * np.geomspace(1, 0.1, m)
    C = ridged(moment(inputs))
    G = ridged(jacobian_BM.T @ jacobian_BM / samples) if two_sided else np.eye(m)
    weighting = Weighting(
        rows=root_of(torch.from_numpy(jacobian_BM.T @ jacobian_BM / samples))
        if two_sided
        else None,
        columns=root_of(torch.from_numpy(moment(inputs))),
    )
    weight = torch.from_numpy(weight_MN)
    viewed = ViewedTensor(weight, view_of(weight), CPU, weighting)
    ((left, right),) = viewed.factors((k,))
    rest = weight_MN - left.numpy() @ right.numpy()
    error = float(np.trace(G @ rest @ C @ rest.T))
    (s,) = viewed.singular_values
    total = float((s**2).sum())
    assert float((s[k:] ** 2).sum()) == pytest.approx(error, rel=1e-5, abs=1e-9 * total)
    # And no other matrix of this rank does better: the spectrum is that of g^T W L.
    reference = np.linalg.svd(
        np.linalg.cholesky(G).T @ weight_MN @ np.linalg.cholesky(C), compute_uv=False
    )
    np.testing.assert_allclose(s, reference, rtol=1e-6, atol=1e-7 * reference[0])


def test_the_error_on_the_samples_themselves() -> None:
    """Without the ridge's share: what METHOD calls the calibration error, from the samples."""
    rng = np.random.default_rng(5)
    weight_MN, inputs = rng.normal(size=(30, 20)), rng.normal(size=(500, 20)) * np.arange(1, 21)
    C = moment(inputs)
    weight = torch.from_numpy(weight_MN)
    viewed = ViewedTensor(
        weight, view_of(weight), CPU, Weighting(columns=root_of(torch.from_numpy(C), ridge=1e-12))
    )
    ((left, right),) = viewed.factors((7,))
    outputs = (inputs - inputs.mean(axis=0)) @ (weight_MN - left.numpy() @ right.numpy()).T
    (s,) = viewed.singular_values
    measured = float((outputs**2).sum() / len(inputs))
    assert float((s[7:] ** 2).sum()) == pytest.approx(measured, rel=1e-5)


def test_it_beats_the_plain_factors_where_it_counts() -> None:
    rng = np.random.default_rng(1)
    weight_MN = rng.normal(size=(24, 32)).astype(np.float32)
    inputs = rng.normal(size=(200, 32)) * np.geomspace(10, 0.01, 32)
    weight = torch.from_numpy(weight_MN)
    plain = ViewedTensor(weight, view_of(weight), CPU)
    aware = ViewedTensor(
        weight, view_of(weight), CPU, Weighting(columns=root_of(torch.from_numpy(moment(inputs))))
    )

    def error(viewed: ViewedTensor) -> float:
        ((left, right),) = viewed.factors((6,))
        rest = weight_MN - left.double().numpy() @ right.double().numpy()
        return float(((inputs - inputs.mean(axis=0)) @ rest.T).var())

    assert error(aware) < 0.1 * error(plain)


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_root_and_its_inverse(diagonal: bool) -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(9, 15))
    C = (rows**2).mean(axis=0) if diagonal else rows.T @ rows / 9  # the second one is singular
    root = root_of(torch.from_numpy(C))
    matrix = torch.from_numpy(rng.normal(size=(4, 15)))
    torch.testing.assert_close(root.undone(root.times(matrix)), matrix)
    L = root.times(torch.eye(15, dtype=torch.float64))
    full = np.diag(C) if diagonal else C
    np.testing.assert_allclose((L @ L.T).numpy(), ridged(full), rtol=1e-9, atol=1e-12)


def test_a_larger_ridge_where_the_moment_is_indefinite() -> None:
    """Rounding in a file of a lower precision makes such moments."""
    C = torch.diag(torch.tensor([1.0, 1.0, -0.05], dtype=torch.float64))
    C[2, 2] = 0.0
    C[1, 2] = C[2, 1] = 0.2  # an eigenvalue of about -0.04
    root = root_of(C)
    assert bool(root.root.isfinite().all())
    assert bool(root.inverse.isfinite().all())
    assert float(root.inverse.abs().max()) < 100


def test_inputs_that_never_vary() -> None:
    root = root_of(torch.zeros(5, 5))
    matrix = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(root.undone(root.times(matrix)), matrix)
    assert float(root.times(matrix).abs().max()) < 1e-5  # next to no energy


@pytest.mark.parametrize("bad", [torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), -torch.eye(2)])
def test_no_second_moment(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="second moment"):
        root_of(bad)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e290])
def test_moments_of_any_scale(scale: float) -> None:
    rows = np.random.default_rng(4).normal(size=(50, 6))
    root, plain = (root_of(torch.from_numpy(moment(rows) * s)) for s in (scale, 1.0))
    identity = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(root.undone(root.times(identity)), identity)
    spectra = [torch.linalg.svdvals(r.root) for r in (root, plain)]
    torch.testing.assert_close(spectra[0] / scale**0.5, spectra[1])
