from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from rankpress.names import Rule
from tests.worker.spectra import (
    KINDS,
    THRESHOLDS,
    error_and_optimum,
    exact_values,
    matrix,
    reference_rank,
)
from worker.factorise.viewed import certain_rank
from worker.linalg import lapack, spectrum
from worker.linalg.certainty import is_certain
from worker.linalg.drivers import GramEigh, GramTridiagonal, QrSvd
from worker.linalg.residual import (
    PLAIN_EXPONENT,
    bounds,
    plain_energy,
    residual_energy,
    row_energy,
)
from worker.linalg.scaling import NonFinite
from worker.linalg.spectrum import NumericalFailure, decompose
from worker.ranks.rules import rank_for

SHAPES = ((96, 64), (64, 96), (200, 40), (150, 150), (20, 7), (7, 20))
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
EPS = {torch.float64: torch.finfo(torch.float64).eps}
EPS_FLOAT32 = torch.finfo(torch.float32).eps
WEIGHING = (Rule.ENTROPY, Rule.ENTROPY_SQUARED, Rule.ENERGY)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_factors_match_a_float64_svd(
    kind: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = matrix(kind, *shape, dtype)
    d = decompose(weight)
    s = exact_values(weight)
    assert d.singular_values.dtype == np.float64
    # What a Gram matrix of that precision can give: s^2 to a few eps * sqrt(r) of s_1^2.
    off = np.abs(d.singular_values**2 - s**2).max() / s[0] ** 2
    assert off <= 8 * len(s) ** 0.5 * max(d.gram_eps, 1e-15)
    floor = 16 * d.eps
    for k in {1, len(s) // 3, len(s) // 2, len(s)} - {0}:
        left, right = d.factors(k)
        assert left.shape == (shape[0], k)
        assert right.shape == (k, shape[1])
        error, optimum = error_and_optimum(weight, d, k)
        assert error <= 1.0001 * optimum + floor


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(150, 110), (110, 150), (300, 40)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_equal_the_float64_reference(
    kind: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = matrix(kind, *shape, dtype, seed=1)
    s = exact_values(weight)
    d = decompose(weight)
    for rule in WEIGHING:
        for tau in THRESHOLDS:
            # Equal values in float64 make ties (20 of 40 is one half), which rounding decides.
            taus = {tau, tau * (1 - 1e-13), tau * (1 + 1e-13)} if tau < 1 else {tau}
            wanted = {reference_rank(rule, s, *shape, t, d.eps) for t in taus}
            assert certain_rank(d, rule, tau) in wanted, (rule, tau, d.driver)


@pytest.mark.parametrize("rule", [Rule.EFFECTIVE_RANK, Rule.GAVISH_DONOHO, Rule.EVBMF])
@pytest.mark.parametrize("kind", ["gauss", "power", "decaying"])
def test_ranks_without_threshold_equal_the_reference(rule: Rule, kind: str) -> None:
    weight = matrix(kind, 150, 110)
    assert certain_rank(decompose(weight), rule, None) == rank_for(
        rule, exact_values(weight), 150, 110
    )


def test_ranks_of_many_random_layers_never_move() -> None:
    for seed in range(40):
        weight = matrix("gauss", 70, 60, seed=seed)
        s = exact_values(weight)
        d = decompose(weight)
        for rule in WEIGHING:
            for tau in (0.7, 0.9, 0.99, 0.9999):
                wanted = reference_rank(rule, s, 70, 60, tau, EPS_FLOAT32)
                assert certain_rank(d, rule, tau) == wanted


def test_a_random_layer_is_decided_by_the_fast_driver() -> None:
    d = decompose(matrix("gauss", 300, 200))
    certain_rank(d, Rule.ENTROPY, 0.9)
    d.factors(50)
    assert d.driver == "gram_tridiagonal_float32"


def test_a_rank_that_hangs_on_small_values_is_refined() -> None:
    weight = matrix("deficient", 300, 200)
    d = decompose(weight)
    assert not is_certain(
        Rule.ENTROPY, d.singular_values, 300, 200, 1.0, eps=d.eps, gram_eps=d.gram_eps
    )
    assert certain_rank(d, Rule.ENTROPY, 1.0) == 66
    assert d.driver == "gram_tridiagonal_float64"


def test_refined_values_go_with_the_fast_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that had to be refined say nothing against float32 vectors, which cost half."""
    made = []

    def noted(d, e):
        made.append(d.dtype)
        return eigenvectors(d, e)

    eigenvectors = lapack.eigenvectors
    monkeypatch.setattr(lapack, "eigenvectors", noted)
    weight = matrix("decaying", 300, 200)
    d = decompose(weight)
    assert d.refine()
    assert d.driver == "gram_tridiagonal_float64"
    error, optimum = error_and_optimum(weight, d, 40)
    assert made == [np.float32]
    assert error <= 1.0001 * optimum
    d.factors(30)
    assert made == [np.float32], "one decomposition for all ranks"
    d.factors(180)  # a tail that a float32 Gram matrix cannot resolve
    assert made == [np.float32, np.float64]


ODD = {
    "heavy tails": lambda rng, m, n: rng.standard_t(2, (m, n)),
    "column scales": lambda rng, m, n: rng.standard_normal((m, n)) * np.exp(rng.normal(0, 2, n)),
    "row scales": lambda rng, m, n: rng.standard_normal((m, n)) * np.exp(rng.normal(0, 2, (m, 1))),
    "constant": lambda rng, m, n: rng.random((m, n)),
    "rectified": lambda rng, m, n: np.maximum(rng.standard_normal((m, n)), 0),
    "integers": lambda rng, m, n: rng.integers(-3, 4, (m, n)).astype(float),
    "graded": lambda rng, m, n: rng.standard_normal((m, n)) * np.exp(-np.linspace(0, 8, n)),
    "smooth": lambda rng, m, n: 1 / (1 + abs(np.subtract.outer(np.arange(m), np.arange(n)))),
}


@pytest.mark.parametrize("shape", [(200, 200), (900, 150)], ids=str)
@pytest.mark.parametrize("kind", ODD)
def test_a_certain_rank_is_the_float64_reference(kind: str, shape: tuple[int, int]) -> None:
    """Whatever the fast driver calls certain: every threshold in steps, so that many are close."""
    weight = torch.from_numpy(ODD[kind](np.random.default_rng(7), *shape)).float()
    d, s = decompose(weight), exact_values(weight)
    certain = 0
    for rule in WEIGHING:
        for tau in np.linspace(0.3, 0.999, 60):
            if is_certain(rule, d.singular_values, d.m, d.n, tau, eps=d.eps, gram_eps=d.gram_eps):
                certain += 1
                found = rank_for(rule, d.singular_values, d.m, d.n, tau, eps=d.eps)
                assert found == reference_rank(rule, s, *shape, tau, d.eps), (rule, tau)
    assert d.driver == "gram_tridiagonal_float32"
    assert certain > 30


def test_a_decomposition_is_gone_with_its_last_user() -> None:
    """No cycle: the garbage collector counts objects, and a matrix of 1 GB is one of them. Found
    by `make memory`, where 6 GB of layers had left 3 GB behind."""
    d = decompose(matrix("decaying", 300, 200))
    gone = weakref.ref(d)
    d.refine()
    d.factors(40)
    gc.disable()
    try:
        del d
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e25, 1e-42, 3e38])
@pytest.mark.parametrize("shape", [(40, 60), (90, 50)], ids=str)
def test_extreme_constants_have_rank_one(
    shape: tuple[int, int], scale: float, dtype: torch.dtype
) -> None:
    weight = torch.full(shape, scale, dtype=dtype)
    d = decompose(weight)
    assert certain_rank(d, Rule.ENTROPY, 0.9) == 1
    assert certain_rank(d, Rule.ENERGY, 1.0) == 1
    wanted = float(weight[0, 0]) * (shape[0] * shape[1]) ** 0.5
    assert d.singular_values[0] == pytest.approx(wanted, rel=1e-5)
    left, right = d.factors(1)
    assert torch.isfinite(left).all()
    assert torch.isfinite(right).all()
    product = left.double() @ right.double()
    assert torch.allclose(product, weight.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1), (2, 2), (33, 1), (1, 40)], ids=str)
def test_thin_matrices(shape: tuple[int, int]) -> None:
    weight = matrix("gauss", *shape)
    d = decompose(weight)
    left, right = d.factors(1)
    assert d.singular_values == pytest.approx(exact_values(weight), rel=1e-6)
    if min(shape) == 1:
        assert torch.allclose(left @ right, weight, atol=1e-6)


def test_zeros_have_zero_values_and_no_factors() -> None:
    d = decompose(torch.zeros(40, 50))
    assert d.is_zero
    assert not d.singular_values.any()
    with pytest.raises(ValueError, match="zero"):
        d.factors(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_refused(bad: float, dtype: torch.dtype) -> None:
    weight = torch.ones(40, 50, dtype=dtype)
    weight[3, 4] = bad
    with pytest.raises(NonFinite):
        decompose(weight)


@pytest.mark.parametrize("weight", [torch.ones(3), torch.ones(2, 0), torch.ones(2, 2).int()])
def test_what_is_no_matrix_is_refused(weight: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="no real matrix"):
        decompose(weight)


@pytest.mark.parametrize("k", [0, -1, 51])
def test_a_rank_outside_its_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        decompose(matrix("gauss", 50, 60)).factors(k)


def test_non_contiguous_views_give_the_same() -> None:
    weight = matrix("gauss", 80, 120)
    strided = torch.stack((weight, weight), dim=-1)[..., 0]
    for view in (strided, weight.T.contiguous().T):
        assert not view.is_contiguous()
        d = decompose(view)
        assert d.singular_values == pytest.approx(decompose(weight).singular_values, rel=1e-4)
        error, optimum = error_and_optimum(weight, d, 30)
        assert error <= 1.0001 * optimum


@pytest.mark.parametrize("shape", [(120, 70), (70, 120)], ids=str)
def test_the_same_input_gives_the_same_bytes(shape: tuple[int, int]) -> None:
    weight = matrix("gauss", *shape)
    (first, second) = (decompose(weight).factors(20) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("shape", [(120, 70), (70, 120)], ids=str)
def test_signs_follow_the_largest_entry(shape: tuple[int, int]) -> None:
    weight = matrix("decaying", *shape)
    left, right = decompose(weight).factors(5)
    basis = right.T if shape[0] >= shape[1] else left
    largest = basis.gather(0, basis.abs().argmax(dim=0)[None])
    assert (largest > 0).all()
    other_left, other_right = decompose(-weight).factors(5)
    assert torch.allclose(other_left @ other_right, -(left @ right), atol=1e-5)


class TestLadder:
    """A driver that fails, or lies, is followed by the next."""

    def test_lapack_failure_falls_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: object) -> None:
            raise lapack.LapackError("stedc: info 3")

        monkeypatch.setattr(lapack, "eigenvectors", fails)
        weight = matrix("gauss", 90, 60)
        d = decompose(weight)
        error, optimum = error_and_optimum(weight, d, 20)
        assert error <= 1.0001 * optimum
        assert d.driver == "qr_svd_float64"

    def test_wrong_vectors_are_caught(self, monkeypatch: pytest.MonkeyPatch) -> None:
        right = GramTridiagonal.basis

        def trailing(self: GramTridiagonal, k: int) -> torch.Tensor:
            return right(self, self._form.d.size)[:, -k:]

        monkeypatch.setattr(GramTridiagonal, "basis", trailing)
        weight = matrix("gauss", 90, 60)
        d = decompose(weight)
        error, optimum = error_and_optimum(weight, d, 20)
        assert error <= 1.0001 * optimum
        assert d.driver == "qr_svd_float64"

    def test_vectors_that_are_not_orthonormal_are_caught(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = GramTridiagonal.basis
        monkeypatch.setattr(GramTridiagonal, "basis", lambda self, k: right(self, k) * 1.001)
        d = decompose(matrix("gauss", 90, 60))
        d.factors(20)
        assert d.driver == "qr_svd_float64"

    def test_wrong_values_are_caught(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lapack, "eigenvalues", lambda d, e: np.full(d.size, np.nan))
        weight = matrix("gauss", 90, 60)
        d = decompose(weight)
        assert d.driver == "qr_svd_float64"
        assert d.singular_values == pytest.approx(exact_values(weight))

    def test_without_memory_on_the_device_the_cpu_takes_over(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The device `meta` stands for a GPU: any computation on it would show."""
        asked: list[str] = []
        scaled = spectrum.scaled

        def full(weight: torch.Tensor, device: torch.device) -> object:
            asked.append(device.type)
            if device.type != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return scaled(weight, device)

        monkeypatch.setattr(spectrum, "scaled", full)
        weight = matrix("gauss", 90, 60)
        d = decompose(weight, device="meta")
        assert asked == ["meta", "cpu"]
        assert d.singular_values == pytest.approx(exact_values(weight), rel=1e-3)

    def test_without_memory_for_the_factors_the_next_driver_follows(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project, calls = spectrum.project, 0

        def once_full(*arguments: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return project(*arguments)

        monkeypatch.setattr(spectrum, "project", once_full)
        weight = matrix("gauss", 90, 60)
        d = decompose(weight)
        error, optimum = error_and_optimum(weight, d, 20)
        assert error <= 1.0001 * optimum

    def test_without_any_memory_the_layer_alone_fails(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(spectrum, "scaled", full)
        with pytest.raises(NumericalFailure, match="memory"):
            decompose(matrix("gauss", 90, 60))

    def test_when_every_driver_fails_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: object, **__: object) -> None:
            raise RuntimeError("no convergence")

        monkeypatch.setattr(lapack, "tridiagonalise", fails)
        monkeypatch.setattr(torch.linalg, "svd", fails)
        with pytest.raises(NumericalFailure):
            decompose(matrix("gauss", 90, 60))


@pytest.mark.parametrize(
    "make",
    [
        lambda w: GramTridiagonal(w, torch.float64),
        lambda w: GramEigh(w, torch.float64),
        QrSvd,
    ],
    ids=["tridiagonal", "eigh", "qr_svd"],
)
@pytest.mark.parametrize("wide", [False, True])
def test_drivers_agree_in_chunks(make, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.linalg.drivers.CHUNK_ELEMENTS", 1000)  # 25 rows
    weight = matrix("gauss", 210, 40)
    tall = weight.T.contiguous().T if wide else weight
    driver = make(tall)
    assert driver.values() == pytest.approx(exact_values(weight), rel=1e-9)
    basis = driver.basis(11).double()
    assert basis.shape == (40, 11)
    assert torch.allclose(basis.T @ basis, torch.eye(11, dtype=torch.float64), atol=1e-12)
    captured = float((weight.double() @ basis).square().sum())
    assert captured == pytest.approx(float((exact_values(weight)[:11] ** 2).sum()), rel=1e-12)


@pytest.mark.parametrize("shape", [(300_000, 64), (4, 150_000)], ids=str)
def test_extreme_aspect_is_bounded(shape: tuple[int, int]) -> None:
    weight = matrix("gauss", 64, 64)[: shape[0]] if shape[0] == 4 else None
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*shape, generator=generator)
    d = decompose(weight)
    k = min(shape) // 2
    left, right = d.factors(k)
    error = (residual_energy(weight, left, right) / row_energy(weight)) ** 0.5
    s = d.singular_values
    assert error == pytest.approx(float(np.sqrt((s[k:] ** 2).sum() / (s**2).sum())), rel=1e-4)
    assert (s**2).sum() == pytest.approx(row_energy(weight), rel=1e-6)


def test_energies_are_sums_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.linalg.residual.BLOCK_ELEMENTS", 100)
    weight, left, right = matrix("gauss", 30, 50), matrix("gauss", 30, 4), matrix("gauss", 4, 50)
    exact = weight.double() - left.double() @ right.double()
    for w, l, r in ((weight, left, right), (weight.T, right.T, left.T)):  # noqa: E741
        assert residual_energy(w, l, r) == pytest.approx(float(exact.square().sum()), rel=1e-6)
        assert row_energy(w) == pytest.approx(float(w.double().square().sum()), rel=1e-14)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (1, 512), (700, 1100), (40_000, 64)], ids=str)
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 2e-8), (torch.float64, 1e-14)])
def test_plain_energy(shape: tuple[int, int], dtype: torch.dtype, rel: float) -> None:
    """At both ends of the range, whatever way the matrix lies, whole or a part of another."""
    weight = matrix("gauss", *shape).to(dtype)
    for scale in (1.0, 2.0**PLAIN_EXPONENT, 2.0**-PLAIN_EXPONENT):
        scaled = weight / weight.abs().max() * scale
        exact = float(scaled.double().square().sum())
        assert plain_energy(scaled) == pytest.approx(exact, rel=rel)
        assert plain_energy(scaled.T) == pytest.approx(exact, rel=rel)
        whole = torch.cat((scaled, torch.ones_like(scaled)), dim=1)
        assert plain_energy(whole[:, : shape[1]]) == pytest.approx(exact, rel=rel)


def test_bounds_tell_of_what_is_not_finite() -> None:
    weight = matrix("gauss", 30, 50)
    low, high = float(weight.min()), float(weight.max())
    assert bounds(weight) == bounds(weight.T) == bounds(weight.flatten()) == (low, high)
    weight[3, 7] = torch.nan
    assert all(np.isnan(bounds(weight)))
    weight[3, 7] = torch.inf
    assert bounds(weight)[1] == np.inf


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_gives_the_same_ranks_and_products(kind: str, shape: tuple[int, int]) -> None:
    weight = matrix(kind, *shape)
    s = exact_values(weight)
    d = decompose(weight, device="cuda")
    for rule in WEIGHING:
        for tau in THRESHOLDS:
            assert certain_rank(d, rule, tau) == reference_rank(rule, s, *shape, tau, d.eps)
    k = max(1, len(s) // 3)
    left, right = (f.cpu().double() for f in d.factors(k))
    error = float(torch.linalg.norm(weight.double() - left @ right))
    floor = 16 * EPS_FLOAT32 * float(np.linalg.norm(s))
    assert error <= 1.0001 * float(np.linalg.norm(s[k:])) + floor
