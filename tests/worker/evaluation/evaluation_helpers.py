"""Checkpoints held in memory, validation files and truncated models for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors.torch import save_file

from rankpress.names import FileFormat, Kind, Rule
from rankpress.schemas.manifest import Manifest, ManifestLayer
from rankpress.schemas.request import Evaluation
from worker.evaluation import check_evaluation, evaluate
from worker.tensors import StoredTensor, dtype_name

CPU = torch.device("cpu")
SHA = "0" * 64


class MemoryCheckpoint:
    """A Checkpoint over a state_dict."""

    format = FileFormat.SAFETENSORS
    metadata: ClassVar[dict[str, str]] = {}
    weights_path = None
    notes = ()

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        self.state = dict(state)
        self.tensors = stored(self.state)

    def tensor(self, name: str) -> torch.Tensor:
        return self.state[name]

    def close(self) -> None:
        pass


def stored(state: Mapping[str, torch.Tensor]) -> tuple[StoredTensor, ...]:
    return tuple(
        StoredTensor(
            name=name,
            dtype=dtype_name(tensor.dtype),
            shape=tuple(tensor.shape),
            nbytes=tensor.numel() * tensor.element_size(),
        )
        for name, tensor in state.items()
    )


def truncated(
    state: Mapping[str, torch.Tensor], ranks: Mapping[str, int]
) -> tuple[dict[str, torch.Tensor], Manifest]:
    """The layers named in `ranks` replaced by their factors, under the keys of API.md."""
    out: dict[str, torch.Tensor] = {}
    layers = []
    moved: dict[str, str] = {}
    for name, rank in ranks.items():
        weight = state[name]
        base = name.removesuffix(".weight")
        u, s, vh = torch.linalg.svd(weight.double().flatten(1), full_matrices=False)
        root = s[:rank].sqrt()
        left, right = u[:, :rank] * root, root[:, None] * vh[:rank]
        kind = Kind.MATRIX
        if weight.dim() == 4:
            kind = Kind.CONVOLUTION
            left = left.reshape(*left.shape, 1, 1)
            right = right.reshape(rank, *weight.shape[1:])
        keys = (
            (f"{base}.0.weight", f"{base}.1.weight")
            if name.endswith(".weight")
            else (f"{name}.right", f"{name}.left")
        )
        out[keys[0]] = right.to(weight.dtype).contiguous()
        out[keys[1]] = left.to(weight.dtype).contiguous()
        bias = (f"{base}.bias", f"{base}.1.bias") if f"{base}.bias" in state else None
        if bias and name.endswith(".weight"):
            moved[bias[0]] = bias[1]
        layers.append(
            ManifestLayer(
                name=name,
                shape=tuple(weight.shape),
                dtype=dtype_name(weight.dtype),
                kind=kind,
                rank=rank,
                rule=Rule.ENTROPY,
                threshold=0.9,
                right=keys[0],
                left=keys[1],
                bias=bias,
            )
        )
    out |= {moved.get(n, n): t for n, t in state.items() if n not in ranks}
    return out, Manifest(layers=tuple(layers))


def restored(state: Mapping[str, torch.Tensor], manifest: Manifest) -> dict[str, torch.Tensor]:
    """left @ right under the original names: what a plain torch model of the original loads."""
    out = dict(state)
    for layer in manifest.layers:
        left, right = out.pop(layer.left), out.pop(layer.right)
        out[layer.name] = (left.flatten(1) @ right.flatten(1)).reshape(layer.shape)
        if layer.bias and layer.bias[1] in out:
            out[layer.bias[0]] = out.pop(layer.bias[1])
    return out


def write_npz(path: Path, **arrays: np.ndarray | torch.Tensor) -> Path:
    np.savez(path, **{n: np.asarray(a) for n, a in arrays.items()})
    return path


def write_safetensors(path: Path, **arrays: torch.Tensor) -> Path:
    save_file({n: a.contiguous() for n, a in arrays.items()}, path)
    return path


def request(**fields: object) -> Evaluation:
    return Evaluation.model_validate({"validation": "v", "batch_size": 32, **fields})


def run(
    asked: Evaluation,
    state: Mapping[str, torch.Tensor],
    ranks: Mapping[str, int],
    data: Path,
    template: Path | None = None,
):
    """(report, the compressed state, its manifest): check, then evaluate, on the CPU."""
    dense = MemoryCheckpoint(state)
    plan = check_evaluation(asked, dense.tensors, data, template)
    small, manifest = truncated(state, ranks)
    steps: list[tuple[int, int]] = []
    report = evaluate(
        plan,
        asked,
        dense,
        MemoryCheckpoint(small),
        manifest,
        data,
        SHA,
        CPU,
        lambda done, total: steps.append((done, total)),
    )
    assert steps[0] == (0, plan.data.batches)
    assert steps[-1] == (plan.data.batches, plan.data.batches)
    return report, small, manifest


def values(report) -> dict[str, tuple[float | None, float | None]]:
    return {m.name: (m.dense, m.compressed) for m in report.metrics}
