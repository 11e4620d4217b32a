"""A file mapped into memory: tensors are windows of it, and no page is read before it is used."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from rankpress.formats.binary import Slice
from worker.tensors import dtype_of

# Python names it from 3.13 on. Without it Linux counts a writable private mapping against memory,
# and refuses to map a checkpoint larger than that.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class MappedFile:
    """Private and copy-on-write: torch wants a writable buffer, and the file never changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            self._map: mmap.mmap | None = None
            if self.size:
                self._map = mmap.mmap(
                    file.fileno(),
                    self.size,
                    flags=mmap.MAP_PRIVATE | _NORESERVE,
                    prot=mmap.PROT_READ | mmap.PROT_WRITE,
                )

    def octets(self, offset: int, nbytes: int) -> torch.Tensor:
        """The bytes as a 1-D uint8 tensor over the mapping. Raises `ValueError` past the end."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise ValueError("a window past the end of the file")
        if not nbytes or self._map is None:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(self._map, dtype=torch.uint8, count=nbytes, offset=offset)

    def window(self, offset: int, size: int) -> Window:
        return Window(self, offset, size)

    def whole(self) -> Window:
        return Window(self, 0, self.size)

    def close(self) -> None:
        """Tensors over the mapping keep it alive; it goes with the last of them."""
        self._map = None


class Window:
    """A file, or one inside an uncompressed archive."""

    def __init__(self, file: MappedFile, offset: int, size: int) -> None:
        self._file, self._offset, self.size = file, offset, size

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The bytes as a file of their own, to read headers from."""
        with self._file.path.open("rb") as file:
            yield Slice(file, self._offset, self.size)  # type: ignore[misc]

    def octets(self, offset: int, nbytes: int) -> torch.Tensor:
        """See `MappedFile.octets`."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise ValueError("a window past the end of the file")
        return self._file.octets(self._offset + offset, nbytes)

    def vector(self, offset: int, nbytes: int, dtype: str) -> torch.Tensor:
        """The bytes as a 1-D tensor of `dtype`; copied only when they do not lie on a multiple of
        the element's size, which torch's kernels rely on."""
        found = self.octets(offset, nbytes)
        kind = dtype_of(dtype)
        if kind is torch.uint8:
            return found
        if found.data_ptr() % kind.itemsize:
            found = found.clone()
        return found.view(kind)

    def close(self) -> None:
        self._file.close()
