"""Damaged checkpoints are opened and read to the last tensor, or refused: nothing else."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from rankpress.errors import RankpressError
from rankpress.formats import Limits
from rankpress.names import OutputFormat
from rankpress.schemas.manifest import Manifest
from worker.checkpoint import open_checkpoint, write_checkpoint
from worker.tensors import OutputTensor

EXAMPLES = int(os.environ.get("RANKPRESS_FUZZ_EXAMPLES", "60"))
LIMITS = Limits(max_header_bytes=100_000, max_tensors=1000, max_opcodes=20_000)


def real(kind: str) -> bytes:
    weight = torch.arange(15.0).reshape(5, 3)
    value = {
        "model": {"w": weight, "t": weight.t(), "part": weight[1:3]},
        "epoch": 3,
        "h": (1, "x"),
    }
    if kind == "safetensors":
        return save({"w": weight, "b": torch.ones(2, dtype=torch.int8)}, {"k": "v"})
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@given(st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_damaged_checkpoints(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(real(kind))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        if data.draw(st.booleans()):
            damaged[at] = data.draw(st.integers(0, 255))
        else:
            damaged[at : at + 1] = data.draw(st.binary(max_size=3)) or b"\x00"
    path, out = tmp_path / "in", tmp_path / "out"
    path.write_bytes(damaged)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "ComplexHalf")  # a flipped bit may ask for it
            read_and_write(path, out)
    except RankpressError as error:
        refused: RankpressError | None = error
    else:
        refused = None
    assert refused is None or refused.status in (413, 422)
    assert {p.name for p in tmp_path.iterdir()} <= {"in", "out"}


def read_and_write(path: Path, out: Path) -> None:
    checkpoint = open_checkpoint([path], limits=LIMITS)
    outputs = []
    for stored in checkpoint.tensors:
        tensor = checkpoint.tensor(stored.name)
        assert tuple(tensor.shape) == stored.shape
        outputs.append(
            OutputTensor(
                name=stored.name,
                dtype=stored.dtype,
                shape=stored.shape,
                load=lambda name=stored.name: checkpoint.tensor(name),  # type: ignore[misc]
                source=stored.name,
            )
        )
    write_checkpoint(
        checkpoint, outputs, out, format=OutputFormat.TORCH, manifest=Manifest(layers=())
    )
