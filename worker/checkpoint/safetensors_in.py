"""A safetensors file as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from rankpress.formats import dtypes
from rankpress.formats.limits import Limits
from rankpress.formats.safetensors import Entry, read_header
from rankpress.names import FileFormat
from worker.checkpoint.aliases import mark_equal
from worker.checkpoint.mapped import Window
from worker.checkpoint.stored import passthrough
from worker.tensors import StoredTensor, dtype_of


class SafetensorsCheckpoint:
    """Tensors by offset. `ties` looks for equal tensors; the shards of one model are compared by
    who opened them all."""

    format = FileFormat.SAFETENSORS
    weights_path: str | None = None
    notes: tuple[str, ...] = ()
    original: Path | None = None  # the file that holds this checkpoint and nothing else

    def __init__(self, window: Window, limits: Limits, *, ties: bool = True) -> None:
        with window.open() as file:
            header = read_header(file, window.size, limits)
        self.metadata = dict(header.metadata)
        self._entries = {entry.name: entry for entry in header.entries}
        self._file = window
        stored = tuple(_stored(entry) for entry in header.entries)
        self.tensors = mark_equal(stored, self.octets) if ties else stored

    def octets(self, name: str) -> torch.Tensor:
        """The tensor's bytes, flat. Raises `KeyError`."""
        entry = self._entries[name]
        return self._file.octets(entry.offset, entry.nbytes)

    def tensor(self, name: str) -> torch.Tensor:
        """Mapped. The six-bit types, which torch does not have, come as their bytes."""
        entry = self._entries[name]
        if dtypes.BITS[entry.dtype] % 8:
            return self.octets(name)
        if not entry.nbytes:
            return torch.empty(entry.shape, dtype=dtype_of(entry.dtype))
        return self._file.vector(entry.offset, entry.nbytes, entry.dtype).view(entry.shape)

    def close(self) -> None:
        self._file.close()


def _stored(entry: Entry) -> StoredTensor:
    return StoredTensor(
        name=entry.name,
        dtype=entry.dtype,
        shape=entry.shape,
        nbytes=entry.nbytes,
        passthrough=passthrough(entry.name, entry.dtype),
    )
