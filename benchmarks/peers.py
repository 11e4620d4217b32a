"""What the engine is measured against. Each peer gives factors of every matrix it is handed."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import scipy.linalg
import torch
from sklearn.utils.extmath import randomized_svd

from benchmarks.layersets import NotHere, fetch_wheel
from rankpress.names import Rule
from worker.ranks.rules import Spectrum, rank_for

Matrices = Mapping[str, torch.Tensor]
Ranks = Mapping[str, int]
FASTERAI = "0.4.1"


def torch_svd(matrices: Matrices, threshold: float) -> dict[str, int]:
    """(a) torch.linalg.svd(full_matrices=False), one layer after the other, rank, factors."""
    ranks = {}
    for name, weight_MN in matrices.items():
        u, s, vh = torch.linalg.svd(weight_MN.float(), full_matrices=False)
        k = rank_of(s.double().numpy(), weight_MN, threshold)
        root = s[:k].sqrt()
        _ = (u[:, :k] * root).contiguous(), (root[:, None] * vh[:k]).contiguous()
        ranks[name] = k
    return ranks


def scipy_gesdd(matrices: Matrices, threshold: float) -> dict[str, int]:
    """(b) scipy.linalg.svd with gesdd, the same loop."""
    ranks = {}
    for name, weight_MN in matrices.items():
        u, s, vh = scipy.linalg.svd(
            weight_MN.float().numpy(), full_matrices=False, lapack_driver="gesdd"
        )
        k = rank_of(s.astype(np.float64), weight_MN, threshold)
        root = np.sqrt(s[:k])
        _ = u[:, :k] * root, root[:, None] * vh[:k]
        ranks[name] = k
    return ranks


def sklearn_randomized(matrices: Matrices, ranks: Ranks) -> None:
    """(c) randomized_svd. It is told the rank, which the others find."""
    for name, weight_MN in matrices.items():
        u, s, vh = randomized_svd(weight_MN.float().numpy(), ranks[name], random_state=0)
        root = np.sqrt(s)
        _ = u * root, root[:, None] * vh


def fasterai(matrices: Matrices, decomposer: Callable[[], object]) -> None:
    """(d) FC_Decomposer, over one nn.Linear for each matrix. It halves every rank."""
    model = torch.nn.Sequential()
    for weight_MN in matrices.values():
        m, n = weight_MN.shape
        layer = torch.nn.Linear(n, m, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(weight_MN.float(), requires_grad=False)
        model.append(layer)
    decomposer().decompose(model, percent_removed=0.5)  # type: ignore[attr-defined]


def two_products(matrices: Matrices, written: Ranks) -> None:
    """The floor: the smaller Gram matrix of each layer, and the projection of those written."""
    for name, weight_MN in matrices.items():
        tall = weight_MN if weight_MN.shape[0] >= weight_MN.shape[1] else weight_MN.T
        gram = tall.T @ tall
        if name in written:
            tall @ gram[:, : written[name]]


def rank_of(s: Spectrum, weight_MN: torch.Tensor, threshold: float) -> int:
    m, n = weight_MN.shape
    eps = float(torch.finfo(torch.float32).eps)
    return rank_for(Rule.ENTROPY, s, m, n, threshold, eps=eps)


def exact_ranks(matrices: Matrices, threshold: float) -> dict[str, int]:
    """The float64 reference, by numpy."""
    return {
        name: rank_of(
            np.linalg.svd(weight_MN.double().numpy(), compute_uv=False), weight_MN, threshold
        )
        for name, weight_MN in matrices.items()
    }


def fasterai_decomposer() -> Callable[[], object]:
    """FC_Decomposer by itself, out of the wheel: its package pulls in fastai. Raises NotHere."""
    wheel = fetch_wheel("fasterai", FASTERAI)
    try:
        module = _module_of(wheel, "fasterai/misc/fc_decomposer.py")
        found: Callable[[], object] = module.FC_Decomposer
    except (KeyError, ImportError, AttributeError) as error:
        raise NotHere(f"fasterai {FASTERAI} cannot be loaded by itself") from error
    return found


def _module_of(wheel: Path, member: str) -> ModuleType:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        path = archive.extract(member, folder)
        spec = importlib.util.spec_from_file_location("benchmark_peer", path)
        if spec is None or spec.loader is None:
            raise ImportError(member)
        module = importlib.util.module_from_spec(spec)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            spec.loader.exec_module(module)
        finally:
            sys.dont_write_bytecode = before
    return module
