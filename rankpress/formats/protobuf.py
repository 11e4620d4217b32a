"""Protobuf's wire format without its library: fields in sequence, their contents skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from rankpress.errors import CorruptFile
from rankpress.formats.binary import CHUNK, read_at

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}
_SMALLEST = 4096
_LONGEST_VARINT = 10
_MAX_FIELDS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field: its bytes are [begin, end), its contents [start, end) for the wire type BYTES.
    `value` is the number of a varint."""

    number: int
    wire: int
    value: int
    begin: int
    start: int
    end: int


class Reader:
    """A file read at rising offsets: small pieces after a jump, larger ones in sequence."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.size = file, size
        self._begin, self._held, self._step = 0, b"", _SMALLEST
        self._fields = 0

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes: fewer at the end of the file."""
        count = min(count, self.size - offset)
        end = self._begin + len(self._held)
        if not (self._begin <= offset and offset + count <= end):
            in_sequence = self._begin <= offset <= end
            self._step = min(4 * self._step, CHUNK) if in_sequence else _SMALLEST
            wanted = min(max(count, self._step), self.size - offset)
            self._begin, self._held = offset, read_at(self._file, offset, wanted, "a field")
        return self._held[offset - self._begin : offset - self._begin + count]

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message at [start, end). Raises `CorruptFile`."""
        at = start
        while at < end:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise CorruptFile(f"the file has more than {_MAX_FIELDS} fields")
            field = self._field(at, end)
            yield field
            at = field.end

    def _field(self, begin: int, end: int) -> Field:
        data = self.at(begin, min(2 * _LONGEST_VARINT, end - begin))
        key, used = varint(data)
        number, wire = key >> 3, key & 7
        if not used or not number:
            raise CorruptFile(f"byte {begin} begins no field")
        start = begin + used
        value = 0
        if wire in _FIXED:
            stop = start + _FIXED[wire]
        elif wire in (VARINT, BYTES):
            value, more = varint(data[used:])
            if not more:
                raise CorruptFile(f"the field at byte {begin} has no length")
            start += more
            stop = start + value if wire == BYTES else start
        else:
            raise CorruptFile(f"the field at byte {begin} is of the unknown wire type {wire}")
        if stop > end:
            raise CorruptFile(
                f"the field at byte {begin} takes {stop - begin} bytes, and {end - begin} are left"
            )
        return Field(number=number, wire=wire, value=value, begin=begin, start=start, end=stop)

    def numbers(self, field: Field) -> list[int]:
        """A repeated integer, packed or a field each. Raises `CorruptFile`."""
        if field.wire == VARINT:
            return [field.value]
        data = self.at(field.start, field.end - field.start)
        found, at = [], 0
        while at < len(data):
            value, used = varint(data[at : at + _LONGEST_VARINT])
            if not used:
                raise CorruptFile(f"a number in the field at byte {field.begin} does not end")
            found.append(value)
            at += used
        return found


def varint(data: bytes) -> tuple[int, int]:
    """The number, and the bytes it took: 0 when it does not end."""
    value = 0
    for i, byte in enumerate(data[:_LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, i + 1
    return 0, 0


def encoded(number: int) -> bytes:
    """The varint of a number."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def prefix(number: int, length: int) -> bytes:
    """What comes before the contents of a field of the wire type BYTES."""
    return encoded(number << 3 | BYTES) + encoded(length)
