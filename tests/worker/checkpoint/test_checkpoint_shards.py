"""Sharded checkpoints: several files, or one archive."""

from __future__ import annotations

import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rankpress.errors import (
    InvalidFile,
    UnsupportedFormat,
)
from rankpress.names import FileFormat, OutputFormat
from rankpress.schemas.manifest import Manifest
from tests.worker.checkpoint.checkpoint_tools import (
    LAYER,
    assert_same,
    bits,
    noise,
    opened,
    outputs,
    written,
)
from worker.checkpoint import open_checkpoint, read_manifest
from worker.tensors import Checkpoint, OutputTensor


def shards(folder: Path, kind: str) -> tuple[list[Path], list[str], dict[str, torch.Tensor]]:
    tensors = {"a.weight": noise(torch.bfloat16, 6, 4), "b.weight": noise(torch.float32, 4, 6),
               "b.bias": noise(torch.float32, 4), "tied": noise(torch.bfloat16, 6, 4)}  # fmt: skip
    suffix = "safetensors" if kind == "safetensors" else "bin"
    parts = {f"model-00001-of-00002.{suffix}": ["a.weight"],
             f"model-00002-of-00002.{suffix}": ["b.weight", "b.bias", "tied"]}  # fmt: skip
    for file, names in parts.items():
        held = {n: tensors[n] for n in names}
        if kind == "safetensors":
            save_file(held, folder / file, {"format": "pt", "who": "me"})
        else:
            torch.save(held, folder / file, _use_new_zipfile_serialization=kind == "bin")
    index = f"model.{suffix}.index.json"
    weight_map = {n: f for f, names in parts.items() for n in names}
    (folder / index).write_text(
        json.dumps({"metadata": {"total_size": 1, "x": "y"}, "weight_map": weight_map})
    )
    names = [*parts, index]
    return [folder / n for n in names], names, tensors


def factorised(checkpoint: Checkpoint) -> list[OutputTensor]:
    """`b` in two factors, all else as it is."""
    found = []
    for output in outputs(checkpoint):
        if output.name == "b.weight":
            for name, shape in (("b.0.weight", (1, 6)), ("b.1.weight", (4, 1))):
                found.append(OutputTensor(name=name, dtype="float32", shape=shape,
                                          load=lambda s=shape: torch.ones(s)))  # type: ignore[misc]  # fmt: skip
        else:
            found.append(replace(output, name=output.name.replace("b.bias", "b.1.bias")))
    return found


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["safetensors", "bin", "legacy"])
def test_shards_in_and_out(kind: str, named: bool, tmp_path: Path) -> None:
    paths, names, tensors = shards(tmp_path, kind)
    checkpoint = open_checkpoint(paths, names=names if named else ())
    assert_same(opened(checkpoint), tensors)
    manifest = Manifest(layers=(LAYER,))
    out = tmp_path / "out.tar"
    assert (
        written(checkpoint, out, items=factorised(checkpoint), manifest=manifest) is FileFormat.TAR
    )
    first = out.read_bytes()
    written(checkpoint, out, items=factorised(checkpoint), manifest=manifest)
    assert out.read_bytes() == first

    folder = tmp_path / "unpacked"
    with tarfile.open(out) as tar:
        tar.extractall(folder, filter="data")
    index_name = next(p.name for p in folder.glob("*.index.json"))
    index = json.loads((folder / index_name).read_text())
    assert index["weight_map"]["b.0.weight"] == names[1]
    assert index["weight_map"]["b.1.bias"] == names[1]
    assert index["weight_map"]["a.weight"] == names[0]
    expected = sum(t.nbytes for n, t in tensors.items() if n != "b.weight") + (6 + 4) * 4
    assert index["metadata"] == {"total_size": expected, "x": "y"}
    found: dict[str, torch.Tensor] = {}
    for file in set(index["weight_map"].values()):
        loaded = (
            load_file(folder / file)
            if kind == "safetensors"
            else torch.load(folder / file, weights_only=True)
        )
        assert set(loaded) == {n for n, f in index["weight_map"].items() if f == file}
        found |= loaded
    assert bits(found["a.weight"]) == bits(tensors["a.weight"])
    assert read_manifest(folder / names[1]) == manifest
    assert read_manifest(folder / names[0]) == Manifest(layers=())

    again = open_checkpoint([out])
    assert again.format is FileFormat.TAR
    assert_same(opened(again), found)
    assert read_manifest(out) == manifest


def test_ties_across_shards_are_found(tmp_path: Path) -> None:
    paths, names, _ = shards(tmp_path, "safetensors")
    checkpoint = open_checkpoint(paths, names=names)
    assert {t.name: t.alias_of for t in checkpoint.tensors}["tied"] == "a.weight"


@pytest.mark.parametrize("wanted", [OutputFormat.SAFETENSORS, OutputFormat.TORCH])
def test_shards_become_one_file_when_asked(wanted: OutputFormat, tmp_path: Path) -> None:
    paths, names, tensors = shards(tmp_path, "safetensors")
    written(open_checkpoint(paths, names=names), tmp_path / "out", wanted)
    assert_same(opened(open_checkpoint([tmp_path / "out"])), tensors)


def test_shards_all_or_nothing(tmp_path: Path) -> None:
    paths, names, _ = shards(tmp_path, "safetensors")
    with pytest.raises(InvalidFile, match=r"missing files: 'model-00002"):
        open_checkpoint([paths[0], paths[2]], names=[names[0], names[2]])
    with pytest.raises(InvalidFile, match="0 indices"):
        open_checkpoint(paths[:2], names=names[:2])
    save_file({"c": torch.ones(1)}, tmp_path / "stray")
    with pytest.raises(InvalidFile, match="does not name: 'stray'"):
        open_checkpoint([*paths, tmp_path / "stray"], names=[*names, "stray"])
    with pytest.raises(InvalidFile, match="without a name"):
        open_checkpoint([*paths, tmp_path / "stray"])
    with pytest.raises(UnsupportedFormat, match="index"):
        open_checkpoint([paths[2]])


def test_an_archive_of_one_file(tmp_path: Path) -> None:
    tensors = {"a": noise(torch.float32, 3, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.safetensors", "a.safetensors")
    checkpoint = open_checkpoint([tmp_path / "a.tar"])
    assert_same(opened(checkpoint), tensors)
    assert written(checkpoint, tmp_path / "out") is FileFormat.SAFETENSORS


def test_which_file_is_the_checkpoint_itself(tmp_path: Path) -> None:
    """What may be handed back unchanged: never an archive of a kind that is not written."""
    paths, names, _ = shards(tmp_path, "safetensors")
    assert open_checkpoint(paths, names=names).original is None
    assert open_checkpoint(paths[:1]).original == paths[0]
    with (
        tarfile.open(tmp_path / "a.tar", "w") as tar,
        zipfile.ZipFile(tmp_path / "a.zip", "w") as z,
    ):
        for path, name in zip(paths, names, strict=True):
            tar.add(path, name)
            z.write(path, name)
    assert open_checkpoint([tmp_path / "a.tar"]).original == tmp_path / "a.tar"
    assert open_checkpoint([tmp_path / "a.zip"]).original is None
