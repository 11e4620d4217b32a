"""A sharded checkpoint written again: one uncompressed tar of the shards and a correct index."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from typing import IO, Any

from rankpress.formats import dtypes
from rankpress.schemas.manifest import Manifest
from worker.checkpoint.safetensors_in import SafetensorsCheckpoint
from worker.checkpoint.safetensors_out import metadata_of, write_safetensors
from worker.checkpoint.sharded import Shard, ShardedCheckpoint
from worker.checkpoint.torch_out import write_torch
from worker.tensors import OutputTensor


def write_shards(
    file: IO[bytes],
    source: ShardedCheckpoint,
    outputs: Sequence[OutputTensor],
    manifest: Manifest | None,
) -> None:
    """Each output goes into the shard that its input came from, and so does each layer's part of
    the manifest."""
    placed = place(source, outputs, manifest)
    for name, held in placed.items():
        part = None if manifest is None else part_of(manifest, name, source)
        _member(file, name, _writer(source.shards[name], held, part))
    weight_map = {o.name: name for name, held in placed.items() for o in held}
    total = sum(dtypes.nbytes(o.dtype, o.shape) for o in outputs)
    index = {
        "metadata": source.index.metadata | {"total_size": total},
        "weight_map": dict(sorted(weight_map.items())),
    }
    text = json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"
    _member(file, source.index_name, lambda section: section.write(text))
    file.write(bytes(2 * tarfile.BLOCKSIZE))


def place(
    source: ShardedCheckpoint, outputs: Sequence[OutputTensor], manifest: Manifest | None
) -> dict[str, list[OutputTensor]]:
    """Shard -> its outputs. What nothing is known of stays beside the output before it."""
    origin: dict[str, str] = {}
    for layer in manifest.layers if manifest is not None else ():
        origin |= {layer.right: layer.name, layer.left: layer.name}
        if layer.bias is not None:
            origin[layer.bias[1]] = layer.bias[0]
    placed: dict[str, list[OutputTensor]] = {name: [] for name in source.shards}
    current = next(iter(placed))
    for output in outputs:
        known = (output.source, origin.get(output.name), output.name)
        current = next(
            (source.shard_of[name] for name in known if name in source.shard_of), current
        )
        placed[current].append(output)
    return placed


def part_of(manifest: Manifest, shard: str, source: ShardedCheckpoint) -> Manifest:
    """The manifest of what lies in one shard."""
    return manifest.model_copy(
        update={
            "layers": tuple(x for x in manifest.layers if source.shard_of.get(x.name) == shard),
            "aliases": {
                name: to
                for name, to in manifest.aliases.items()
                if source.shard_of.get(name) == shard
            },
        }
    )


def _writer(
    shard: Shard, held: Sequence[OutputTensor], manifest: Manifest | None
) -> Callable[[IO[bytes]], object]:
    if isinstance(shard, SafetensorsCheckpoint):
        return lambda file: write_safetensors(file, held, metadata_of(shard.metadata, manifest))
    return lambda file: write_torch(file, shard, held, shard.metadata, manifest)


def _member(file: IO[bytes], name: str, write: Callable[[IO[bytes]], object]) -> None:
    """The header is written last, over the room left for it: only then is the size known."""
    start = file.tell()
    room = len(_header(name, 0))
    file.write(bytes(room))
    section: Any = Section(file, start + room)
    write(section)
    file.seek(0, io.SEEK_END)
    size = file.tell() - start - room
    file.write(bytes(-size % tarfile.BLOCKSIZE))
    end = file.tell()
    file.seek(start)
    file.write(_header(name, size))
    file.seek(end)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


class Section(io.RawIOBase):
    """The rest of a file from `base` on, as a file that begins there."""

    def __init__(self, file: IO[bytes], base: int) -> None:
        super().__init__()
        self._file, self._base = file, base

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._base

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            offset += self._base
        return self._file.seek(offset, whence) - self._base

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def flush(self) -> None:
        if not self.closed:
            self._file.flush()
