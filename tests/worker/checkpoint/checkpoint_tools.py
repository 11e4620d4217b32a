"""Checkpoints for tests, and what is compared of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rankpress.names import FileFormat, Kind, OutputFormat, Rule
from rankpress.schemas.manifest import Manifest, ManifestLayer
from worker.checkpoint import write_checkpoint
from worker.tensors import Checkpoint, OutputTensor

LAYER = ManifestLayer(
    name="b.weight", shape=(4, 6), dtype="float32", kind=Kind.MATRIX, rank=1, rule=Rule.ENERGY,
    threshold=0.9, right="b.0.weight", left="b.1.weight", bias=("b.bias", "b.1.bias"),
)  # fmt: skip


MANIFEST = Manifest(layers=(LAYER,))


def noise(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Arbitrary bits: nan payloads and all. Booleans have two."""
    generator = torch.Generator().manual_seed(7)
    bits = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=generator)
    if dtype is torch.bool:
        return bits[..., 0] > 127
    return bits.view(dtype).reshape(shape) if dtype.itemsize > 1 else bits[..., 0].view(dtype)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def outputs(checkpoint: Checkpoint) -> list[OutputTensor]:
    """Everything passed through."""
    return [
        OutputTensor(
            name=t.name,
            dtype=t.dtype,
            shape=t.shape,
            load=lambda name=t.name: checkpoint.tensor(name),  # type: ignore[misc]
            source=t.name,
        )
        for t in checkpoint.tensors
    ]


def written(
    checkpoint: Checkpoint,
    path: Path,
    wanted: OutputFormat = OutputFormat.SAME,
    items: Sequence[OutputTensor] | None = None,
    manifest: Manifest | None = MANIFEST,
    **options: bool,
) -> FileFormat:
    items = outputs(checkpoint) if items is None else items
    return write_checkpoint(checkpoint, items, path, format=wanted, manifest=manifest, **options)


def opened(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {t.name: checkpoint.tensor(t.name) for t in checkpoint.tensors}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert bits(found[name]) == bits(tensor.detach()), name


def plain(value: Any) -> Any:
    """The value with tensors as their bits, to compare by ==."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), bits(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(v) for v in value)
    return value


def training_checkpoint() -> dict[str, Any]:
    model = torch.nn.Linear(6, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_epoch": scheduler.last_epoch},
        "epoch": 3,
        "rng_state": torch.get_rng_state(),
    }
