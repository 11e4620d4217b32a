"""Reading with the end known: short reads are a cut file, and a slice is a file of its own."""

from __future__ import annotations

import io
from typing import IO, Any

from rankpress.errors import CorruptFile

CHUNK = 256 * 1024


def read_at(file: IO[bytes], offset: int, count: int, what: str) -> bytes:
    """Exactly `count` bytes. Raises `CorruptFile` when the file ends before."""
    file.seek(offset)
    parts: list[bytes] = []
    left = count
    while left:
        part = file.read(left)
        if not part:
            raise CorruptFile(
                f"the file ends in the middle of {what}: it was cut short; send it again"
            )
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Slice(io.RawIOBase):
    """A read-only window of a file, for a file inside an archive."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        super().__init__()
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), max(0, self._size - self._at))
        if not count:
            return 0
        self._file.seek(self._offset + self._at)
        data = self._file.read(count)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


class Cursor:
    """Bytes in sequence out of a file, read ahead in chunks, with a budget."""

    def __init__(self, file: IO[bytes], size: int, offset: int = 0) -> None:
        self._file, self._size = file, size
        self._next = offset  # file offset of the first byte not yet in the buffer
        self._buffer, self._at = b"", 0

    @property
    def position(self) -> int:
        return self._next - len(self._buffer) + self._at

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises `CorruptFile` at the end of the file."""
        end = self._at + count
        if end <= len(self._buffer):
            found = self._buffer[self._at : end]
            self._at = end
            return found
        if count > self._size - self.position:
            raise CorruptFile("the file ends in the middle of its pickle: it was cut short")
        rest = self._buffer[self._at :]
        wanted = max(count - len(rest), min(CHUNK, self._size - self._next))
        fresh = read_at(self._file, self._next, wanted, "its pickle")
        self._next += len(fresh)
        self._buffer, self._at = rest + fresh, count
        return self._buffer[:count]

    def readline(self, limit: int) -> bytes:
        """Up to and without the next newline. Raises `CorruptFile` when none comes in `limit`."""
        line = bytearray()
        while (byte := self.read(1)) != b"\n":
            line += byte
            if len(line) > limit:
                raise CorruptFile("a line of the pickle is longer than any name")
        return bytes(line)
