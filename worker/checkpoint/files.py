"""Writing a file so that it is whole, or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from rankpress.service.localfiles import sync

WRITE_BYTES = 16 * 1024**2
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path` that takes its name at the end, once its bytes are on the disk."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def octets(tensor: torch.Tensor) -> memoryview:
    """The elements' bytes in row-major order, little-endian; copied only when not contiguous."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    # Copied as integers: torch warns when it makes a tensor of its rarer types.
    if (same_size := _INTEGERS.get(plain.itemsize)) is not None:
        plain = plain.view(same_size)
    data: memoryview = plain.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data


def write_octets(write: IO[bytes], data: memoryview, expected: int, name: str) -> None:
    """In pieces, so that a mapped tensor is never in memory as a whole. Raises `ValueError` when
    the tensor is not what was announced in the header, which is written already."""
    if len(data) != expected:
        raise ValueError(f"tensor {name!r} has {len(data)} bytes, and {expected} were announced")
    for start in range(0, len(data), WRITE_BYTES):
        write.write(data[start : start + WRITE_BYTES])
