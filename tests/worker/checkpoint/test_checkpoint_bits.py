"""In and out again: every element type, and the bytes that must not change."""

from __future__ import annotations

import json
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rankpress.errors import (
    CorruptFile,
    InvalidFile,
    UnsupportedFormat,
)
from rankpress.names import FileFormat, OutputFormat, Reason
from rankpress.schemas.manifest import METADATA_KEY
from tests.worker.checkpoint.checkpoint_tools import (
    MANIFEST,
    assert_same,
    noise,
    opened,
    outputs,
    training_checkpoint,
    written,
)
from worker.checkpoint import open_checkpoint, read_manifest
from worker.tensors import dtype_name

SAFETENSORS_DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
    torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


TORCH_DTYPES = [*SAFETENSORS_DTYPES, torch.complex128, torch.complex32, torch.float4_e2m1fn_x2]


SHAPES = {"matrix": (6, 4), "vector": (3,), "scalar": (), "empty": (0, 7), "cube": (2, 3, 4)}


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES, ids=dtype_name)
def test_safetensors_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: noise(dtype, *shape) for name, shape in SHAPES.items()}
    save_file(tensors, tmp_path / "in", {"author": "x"})
    checkpoint = open_checkpoint([tmp_path / "in"])
    assert {t.dtype for t in checkpoint.tensors} == {dtype_name(dtype)}
    assert_same(opened(checkpoint), tensors)
    assert written(checkpoint, tmp_path / "out") is FileFormat.SAFETENSORS
    assert_same(load_file(tmp_path / "out"), tensors)
    again = open_checkpoint([tmp_path / "out"])
    assert again.metadata["author"] == "x"
    assert again.metadata["format"] == "pt"
    assert read_manifest(tmp_path / "out") == MANIFEST


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=dtype_name)
def test_torch_bit_for_bit(dtype: torch.dtype, legacy: bool, tmp_path: Path) -> None:
    tensors = {name: noise(dtype, *shape) for name, shape in SHAPES.items()}
    torch.save(tensors, tmp_path / "in", _use_new_zipfile_serialization=not legacy)
    checkpoint = open_checkpoint([tmp_path / "in"])
    assert checkpoint.format is (FileFormat.TORCH_LEGACY if legacy else FileFormat.TORCH)
    assert_same(opened(checkpoint), tensors)
    assert written(checkpoint, tmp_path / "out") is FileFormat.TORCH
    for mmap in (False, True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "ComplexHalf")  # of torch.load, once
            found = torch.load(tmp_path / "out", weights_only=True, mmap=mmap)
        assert_same(found, tensors)
    assert read_manifest(tmp_path / "out") == MANIFEST


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES, ids=dtype_name)
def test_from_one_container_into_the_other(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: noise(dtype, *shape) for name, shape in SHAPES.items()}
    torch.save(tensors, tmp_path / "a.pt")
    written(open_checkpoint([tmp_path / "a.pt"]), tmp_path / "b", OutputFormat.SAFETENSORS)
    assert_same(load_file(tmp_path / "b"), tensors)
    written(open_checkpoint([tmp_path / "b"]), tmp_path / "c", OutputFormat.TORCH)
    assert_same(torch.load(tmp_path / "c", weights_only=True), tensors)


@pytest.mark.parametrize("code", ["F6_E2M3", "F6_E3M2", "F4"])
def test_safetensors_types_below_a_byte(code: str, tmp_path: Path) -> None:
    size = 12 if code == "F4" else 18
    header = {"a": {"dtype": code, "shape": [3, 8], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    data = bytes(range(size))
    (tmp_path / "in").write_bytes(len(text).to_bytes(8, "little") + text + data)
    checkpoint = open_checkpoint([tmp_path / "in"])
    assert checkpoint.tensors[0].passthrough in (Reason.FLOAT6, Reason.FLOAT4)
    written(checkpoint, tmp_path / "out", OutputFormat.SAFETENSORS, manifest=None)
    raw = (tmp_path / "out").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert json.loads(raw[8 : 8 + length])["a"] == header["a"]
    assert raw[8 + length :] == data


@pytest.mark.parametrize("wanted", [OutputFormat.TORCH, OutputFormat.SAFETENSORS])
def test_the_same_input_gives_the_same_bytes(wanted: OutputFormat, tmp_path: Path) -> None:
    torch.save(training_checkpoint(), tmp_path / "in")
    for name in ("a", "b"):
        written(open_checkpoint([tmp_path / "in"]), tmp_path / name, wanted)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_members_of_an_archive_are_aligned(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3), "b": torch.ones(5, dtype=torch.int8)}, tmp_path / "in")
    written(open_checkpoint([tmp_path / "in"]), tmp_path / "out", OutputFormat.TORCH)
    reader = torch._C.PyTorchFileReader(str(tmp_path / "out"))
    assert [reader.get_record_offset(f"data/{i}") % 64 for i in range(2)] == [0, 0]
    with zipfile.ZipFile(tmp_path / "out") as archive:
        assert archive.testzip() is None


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "in")
    checkpoint = open_checkpoint([tmp_path / "in"])
    (tmp_path / "out").write_bytes(b"before")
    (bad,) = [replace(o, load=lambda: torch.ones(4)) for o in outputs(checkpoint)]
    for wanted in (OutputFormat.SAFETENSORS, OutputFormat.TORCH):
        with pytest.raises(ValueError, match="announced"):
            written(checkpoint, tmp_path / "out", wanted, [bad])
    assert (tmp_path / "out").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_mapped_tensors_are_private(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "in")
    before = (tmp_path / "in").read_bytes()
    checkpoint = open_checkpoint([tmp_path / "in"])
    tensor = checkpoint.tensor("a")
    tensor.add_(1)
    checkpoint.close()
    assert tensor.tolist() == [2, 2, 2], "it outlives the checkpoint"
    assert (tmp_path / "in").read_bytes() == before


def test_big_endian_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "in")
    data = (tmp_path / "in").read_bytes()
    (tmp_path / "in").write_bytes(data.replace(b"little", b"big\x00\x00\x00"))
    with pytest.raises(UnsupportedFormat, match="byte order"):
        open_checkpoint([tmp_path / "in"])


def test_validation_arrays_are_no_model(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "a.npz", a=np.ones(2))
    with pytest.raises(UnsupportedFormat, match="npz"):
        open_checkpoint([tmp_path / "a.npz"])


def test_damaged_manifest(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "in", {METADATA_KEY: "{"})
    with pytest.raises(CorruptFile, match="manifest"):
        read_manifest(tmp_path / "in")


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x80\x02cos\nsystem\n."])
def test_the_checks_run_again_in_the_worker(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(data)
    with pytest.raises(InvalidFile):
        open_checkpoint([tmp_path / "in"])


def test_the_manifest_does_not_disturb_a_strict_load(tmp_path: Path) -> None:
    model = torch.nn.Linear(6, 4)
    torch.save(model.state_dict(), tmp_path / "in")
    written(open_checkpoint([tmp_path / "in"]), tmp_path / "out")
    model.load_state_dict(torch.load(tmp_path / "out", weights_only=True), strict=True)
    assert read_manifest(tmp_path / "out") == MANIFEST
    assert open_checkpoint([tmp_path / "out"]).metadata[METADATA_KEY] == MANIFEST.model_dump_json()
    assert read_manifest(tmp_path / "in") is None
    again = open_checkpoint([tmp_path / "out"])
    written(again, tmp_path / "third", OutputFormat.TORCH, manifest=None)
    assert read_manifest(tmp_path / "third") is None, "an old manifest does not stay"
