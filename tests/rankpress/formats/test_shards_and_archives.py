"""Sharded checkpoints: the index, and tar and zip archives of shards."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save

from rankpress.errors import CorruptFile, InvalidFile, PayloadTooLarge, UnsupportedFormat
from rankpress.formats import Limits, ShardIndex, inspect_file
from rankpress.formats.shards import check_shards
from rankpress.names import FileFormat

INDEX = {
    "metadata": {"total_size": 32},
    "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"},
}
FILES = {
    "m-1.safetensors": save({"a": torch.ones(2, 2)}),
    "m-2.safetensors": save({"b": torch.ones(2, 2)}),
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
}


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def inspect(data: bytes, limits: Limits | None = None) -> object:
    return inspect_file(io.BytesIO(data), len(data), limits=limits)


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize("folder", ["", "model/"])
def test_an_archive_of_shards(make: Callable[[dict[str, bytes]], bytes], folder: str) -> None:
    data = make({folder + name: held for name, held in FILES.items()})
    facts = inspect_file(io.BytesIO(data), len(data))
    assert facts.format is (FileFormat.TAR if make is tar_of else FileFormat.ZIP)
    assert facts.members == ("m-1.safetensors", "m-2.safetensors")
    assert [t.name for t in facts.tensors or ()] == ["a", "b"]
    assert facts.index is not None


def test_an_index_alone_is_taken() -> None:
    data = FILES["model.safetensors.index.json"]
    facts = inspect_file(io.BytesIO(data), len(data))
    assert facts.format is FileFormat.JSON
    assert facts.index is not None
    assert facts.index.files == ("m-1.safetensors", "m-2.safetensors")


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"m-2.safetensors": None}, ["missing files: 'm-2.safetensors'"]),
        ({"m-3.safetensors": save({"c": torch.ones(1)})}, ["does not name: 'm-3.safetensors'"]),
        (
            {"m-2.safetensors": save({"x": torch.ones(1)})},
            ["tensors missing from 'm-2.safetensors': 'b'", "not in the index: 'x'"],
        ),
        ({"model.safetensors.index.json": None}, ["no index"]),
        ({"m-1.safetensors": b"<html>"}, ["in 'm-1.safetensors'", "HTML"]),
        ({"other.index.json": json.dumps(INDEX).encode()}, ["two indexes"]),
        ({"more.tar": tar_of({"x": b"y"})}, ["another archive"]),
        ({"more.npz": zip_of({"a.npy": b"y"})}, ["more.npz"]),
    ],
)
def test_all_or_nothing(
    make: Callable[[dict[str, bytes]], bytes], change: dict[str, bytes | None], says: list[str]
) -> None:
    files = {k: v for k, v in (FILES | change).items() if v is not None}
    with pytest.raises(InvalidFile) as caught:
        inspect(make(files))
    for text in says:
        assert text in caught.value.detail


def test_a_compressed_archive_is_refused_with_a_hint() -> None:
    with pytest.raises(UnsupportedFormat, match="zip -0"):
        inspect(zip_of(FILES, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("name", ["../../x", "/abs", "a/../../b"])
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_names_in_archives_are_no_paths(
    make: Callable[[dict[str, bytes]], bytes], name: str
) -> None:
    with pytest.raises(CorruptFile, match="name"):
        inspect(make(FILES | {name: b"x"}))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(kind: bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("m-1.safetensors")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(CorruptFile, match="plain file"):
        inspect(out.getvalue())


def test_a_tar_header_of_a_gigabyte_is_not_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    with pytest.raises(CorruptFile, match="header"):
        inspect(info.tobuf(tarfile.USTAR_FORMAT) + bytes(2048))


def test_a_cut_tar_is_corrupt() -> None:
    with pytest.raises(CorruptFile):
        inspect(tar_of(FILES)[:700])


@pytest.mark.parametrize("shard", ["../x", "/x", "a/b", "..", "", "x" * 300, 3, None])
def test_the_index_names_plain_files(shard: object) -> None:
    with pytest.raises(CorruptFile, match="plain file name"):
        inspect(json.dumps({"weight_map": {"a": shard}}).encode())


def test_an_index_over_the_limit() -> None:
    with pytest.raises(PayloadTooLarge):
        inspect(FILES["model.safetensors.index.json"], Limits(max_tensors=1))


def test_long_lists_are_shortened() -> None:
    index = ShardIndex(weight_map={f"t{i}": f"f{i}" for i in range(100)})
    with pytest.raises(InvalidFile, match="and 80 more"):
        check_shards(index, {})
