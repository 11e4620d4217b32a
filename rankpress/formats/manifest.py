"""The manifest of a compressed file: in the metadata of a safetensors file or an ONNX model, in a
record of its own in a torch archive (so that the pickled value stays what the caller saved)."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from pydantic import ValidationError

from rankpress.errors import CorruptFile
from rankpress.formats import archives, onnx, safetensors, sniff, torch_zip, zips
from rankpress.formats.binary import Slice, read_at
from rankpress.formats.limits import Limits
from rankpress.schemas.manifest import METADATA_KEY, Manifest


def read_manifest(path: Path, limits: Limits | None = None) -> Manifest | None:
    """None for a file that was not compressed here. Raises `CorruptFile` and what the checks of
    the format raise."""
    with path.open("rb") as file:
        return manifest_of(file, path.stat().st_size, limits or Limits())


def manifest_of(file: IO[bytes], size: int, limits: Limits) -> Manifest | None:
    head = read_at(file, 0, min(size, sniff.HEAD_BYTES), "its first bytes")
    if sniff.is_zip(head):
        text = _zip_record(file, size, limits)
    elif sniff.is_safetensors(head):
        text = safetensors.read_header(file, size, limits).metadata.get(METADATA_KEY)
    elif sniff.is_tar(head):
        return _of_shards(file, size, limits)
    elif onnx.is_onnx(file, size):
        found = onnx.read_onnx(file, size, limits)
        text = onnx.metadata_value(file, size, found, METADATA_KEY, limits.max_header_bytes)
    else:
        return None
    return None if text is None else parse(text)


def _of_shards(file: IO[bytes], size: int, limits: Limits) -> Manifest | None:
    """Each shard carries the manifest of its own layers."""
    found: list[Manifest] = []
    for part in archives.tar_parts(file, size):
        window: IO[bytes] = Slice(file, part.offset, part.size)  # type: ignore[assignment]
        if (manifest := manifest_of(window, part.size, limits)) is not None:
            found.append(manifest)
    if not found:
        return None
    aliases = {name: to for manifest in found for name, to in manifest.aliases.items()}
    layers = tuple(layer for manifest in found for layer in manifest.layers)
    return found[0].model_copy(update={"layers": layers, "aliases": aliases})


def parse(text: str) -> Manifest:
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise CorruptFile("the manifest in the file's metadata is damaged") from error


def _zip_record(file: IO[bytes], size: int, limits: Limits) -> str | None:
    members = zips.read_directory(file, size, limits)
    if not members or not torch_zip.is_torch(members):
        return None
    data = torch_zip.read_record(file, members, torch_zip.MANIFEST_RECORD, limits)
    return None if data is None else data.decode("utf-8", "replace")
