"""A checkpoint in several files: the JSON index, and whether files and index fit each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import IO

from rankpress.errors import CorruptFile, InvalidFile, PayloadTooLarge, UnsupportedFormat
from rankpress.formats.binary import read_at
from rankpress.formats.facts import ShardIndex
from rankpress.formats.limits import Limits
from rankpress.formats.safetensors import clip, parse_json

_SHOWN = 20


def read_index(file: IO[bytes], size: int, limits: Limits) -> ShardIndex:
    """Raises `UnsupportedFormat` for JSON of another kind, `CorruptFile`, `PayloadTooLarge`."""
    if size > limits.max_header_bytes:
        raise PayloadTooLarge(
            f"the JSON file is {size} bytes long; the limit is {limits.max_header_bytes} bytes"
        )
    document = parse_json(read_at(file, 0, size, "the JSON"), "JSON file", limits)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict):
        raise UnsupportedFormat(
            "the file is JSON, but not the index of a sharded checkpoint (no weight_map); send "
            "the weights themselves, and the *.index.json beside them when there are several files"
        )
    if len(weight_map) > limits.max_tensors:
        raise PayloadTooLarge(f"the index names more than {limits.max_tensors} tensors")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not is_plain_name(shard):
            raise CorruptFile(
                f"the index puts tensor {clip(name)} into {clip(shard)}, which is no plain file "
                "name"
            )
    metadata = document.get("metadata", {})
    return ShardIndex(
        weight_map=weight_map, metadata=metadata if isinstance(metadata, dict) else {}
    )


def is_plain_name(name: str) -> bool:
    return (
        0 < len(name) <= 255
        and name not in (".", "..")
        and not any(ord(c) < 32 or c in "/\\:" for c in name)
    )


def check_shards(index: ShardIndex, shards: Mapping[str, Iterable[str]]) -> None:
    """All or nothing, both ways: `shards` maps each file to the tensors it really holds. Raises
    `InvalidFile` that lists what is missing and what is not in the index."""
    wanted: dict[str, set[str]] = {file: set() for file in index.files}
    for name, file in index.weight_map.items():
        wanted[file].add(name)
    faults: list[str] = []
    if missing := [file for file in wanted if file not in shards]:
        faults.append(f"missing files: {_some(missing)}")
    if stray := [file for file in shards if file not in wanted]:
        faults.append(f"files that the index does not name: {_some(stray)}")
    for file in wanted:
        if file not in shards:
            continue
        held = set(shards[file])
        if lost := [name for name in wanted[file] if name not in held]:
            faults.append(f"tensors missing from {clip(file)}: {_some(sorted(lost))}")
        if extra := [name for name in held if name not in wanted[file]]:
            faults.append(f"tensors of {clip(file)} not in the index: {_some(sorted(extra))}")
    if faults:
        raise InvalidFile(
            f"the files and the index of the sharded checkpoint do not fit: {'; '.join(faults)}"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(clip(name) for name in names[:_SHOWN]) + more
