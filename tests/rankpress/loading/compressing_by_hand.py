"""Writes compressed files as the service does, from the contract alone (API.md, the manifest), so
that the loader is tested against the format and not against the worker's code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rankpress.names import Kind, OutputLayout, Rule
from rankpress.schemas.manifest import METADATA_KEY, Manifest, ManifestLayer


@dataclass(frozen=True)
class Cut:
    """Cut the tensor of this name to this rank, by this view."""

    name: str
    kind: Kind
    rank: int


def factors(weight: Tensor, kind: Kind, rank: int) -> tuple[Tensor, Tensor]:
    """(right, left) in the stored shapes, from an SVD of the matrix view."""
    m, *rest = weight.shape
    match kind:
        case Kind.MATRIX | Kind.CONVOLUTION:
            left, right = _svd(weight.reshape(m, -1), rank)
            ones = (1,) * (len(rest) - 1)
            return right.reshape(rank, *rest), left.reshape(m, rank, *ones)
        case Kind.CONVOLUTION_SPATIAL:
            n, kh, kw = rest
            left, right = _svd(weight.permute(0, 2, 1, 3).reshape(m * kh, n * kw), rank)
            stored = left.reshape(m, kh, rank).permute(0, 2, 1).reshape(m, rank, kh, 1)
            return right.reshape(rank, n, 1, kw), stored
        case Kind.EXPERTS:
            pairs = [_svd(w, rank) for w in weight]
            return torch.stack([r for _, r in pairs]), torch.stack([x for x, _ in pairs])
    raise AssertionError(kind)


def product(kind: Kind, right: Tensor, left: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The dense tensor, element by element: written apart from the loader's."""
    out = torch.zeros(shape, dtype=right.dtype)
    for r in range(right.shape[1] if kind is Kind.EXPERTS else right.shape[0]):
        match kind:
            case Kind.MATRIX:
                out += torch.outer(left[:, r], right[r])
            case Kind.CONVOLUTION:
                column = left[:, r].reshape(-1, *(1,) * (len(shape) - 1))
                out += column * right[r].unsqueeze(0)
            case Kind.CONVOLUTION_SPATIAL:
                out += left[:, r, :, :].reshape(shape[0], 1, shape[2], 1) * right[r].reshape(
                    1, shape[1], 1, shape[3]
                )
            case Kind.EXPERTS:
                out += left[:, :, r, None] * right[:, r, None, :]
    return out


def compress(
    state: dict[str, Tensor],
    cuts: list[Cut],
    *,
    aliases: dict[str, str] | None = None,
    layout: OutputLayout = OutputLayout.FACTORS,
) -> tuple[dict[str, Tensor], Manifest, dict[str, Tensor]]:
    """(tensors of the file, manifest, the dense state that they stand for)."""
    tensors = {k: v.clone() for k, v in state.items() if k not in (aliases or {})}
    reference = {k: v.clone() for k, v in state.items()}
    layers = []
    for cut in cuts:
        weight = tensors.pop(cut.name)
        right, left = factors(weight.double(), cut.kind, cut.rank)
        right, left = (t.to(weight.dtype).contiguous() for t in (right, left))
        stem = cut.name.removesuffix(".weight")
        bias = None
        if stem != cut.name:
            keys = (f"{stem}.0.weight", f"{stem}.1.weight")
            if f"{stem}.bias" in tensors:
                bias = (f"{stem}.bias", f"{stem}.1.bias")
                tensors[bias[1]] = tensors.pop(bias[0])
        else:
            keys = (f"{cut.name}.right", f"{cut.name}.left")
        tensors[keys[0]], tensors[keys[1]] = right, left
        reference[cut.name] = product(cut.kind, right, left, tuple(weight.shape))
        layers.append(
            ManifestLayer(
                name=cut.name,
                shape=tuple(weight.shape),
                dtype=str(weight.dtype).removeprefix("torch."),
                kind=cut.kind,
                rank=cut.rank,
                rule=Rule.ENTROPY,
                threshold=0.9,
                right=keys[0],
                left=keys[1],
                bias=bias,
            )
        )
    for alias, holder in (aliases or {}).items():
        reference[alias] = reference[holder]
    manifest = Manifest(layout=layout, layers=tuple(layers), aliases=aliases or {})
    return tensors, manifest, reference


def write(path: Path, tensors: dict[str, Tensor], manifest: Manifest) -> Path:
    metadata = {"format": "pt", METADATA_KEY: manifest.model_dump_json()}
    save_file(tensors, path, metadata=metadata)
    return path


def _svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]
