"""The directory of a zip, read strictly: no member may hide, overlap, or mean something else to
another reader. (zipfile believes the directory; torch's reader believes the local headers.)"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

from rankpress.errors import CorruptFile, PayloadTooLarge
from rankpress.formats.binary import read_at
from rankpress.formats.limits import Limits
from rankpress.formats.safetensors import clip

MAGIC = b"PK\x03\x04"
EMPTY_MAGIC = b"PK\x05\x06"
STORED, DEFLATED = 0, 8
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_NAME = 1024
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """`offset` of the member's own bytes is known after `locate`."""

    name: str
    method: int
    size: int  # of the content
    stored: int  # of the bytes in the file
    crc: int
    header: int  # offset of the local header


def read_directory(file: IO[bytes], size: int, limits: Limits) -> tuple[Member, ...]:
    """The members in the order of their bytes. Raises `CorruptFile` for anything that two zip
    readers could read in two ways, and `PayloadTooLarge`."""
    start, length, count = _end(file, size)
    if length > limits.max_header_bytes or count > limits.max_members:
        raise PayloadTooLarge(
            f"the zip directory has {count} members in {length} bytes; the limits are "
            f"{limits.max_members} members and {limits.max_header_bytes} bytes"
        )
    data = read_at(file, start, length, "the zip directory")
    members: list[Member] = []
    at = 0
    while at < length:
        member, at = _entry(data, at)
        members.append(member)
    if len(members) != count:
        raise CorruptFile(f"the zip directory has {len(members)} members and announces {count}")
    _check_names(members)
    members.sort(key=lambda member: member.header)
    end = 0
    for member in members:
        if member.header < end:
            raise CorruptFile(f"the zip member {clip(member.name)} overlaps another one")
        end = member.header + _LOCAL.size + len(member.name.encode()) + member.stored
    if end > start:
        raise CorruptFile("the last zip member runs into the directory")
    return tuple(members)


def locate(file: IO[bytes], member: Member) -> int:
    """Offset of the member's bytes, by its local header, which must agree with the directory."""
    data = read_at(file, member.header, _LOCAL.size, "a zip member")
    magic, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack(data)
    name = read_at(file, member.header + _LOCAL.size, name_length, "a zip member")
    if magic != MAGIC or method != member.method or flags & _ENCRYPTED:
        raise CorruptFile(f"the local header of the zip member {clip(member.name)} is damaged")
    if _decode(name) != member.name:
        raise CorruptFile(f"the zip member {clip(member.name)} has another name at its place")
    start: int = member.header + _LOCAL.size + name_length + extra_length
    return start


def contiguous(file: IO[bytes], members: tuple[Member, ...], size: int) -> dict[str, int]:
    """Name -> offset of its bytes, for every member. Raises `CorruptFile` when one runs into the
    next."""
    offsets: dict[str, int] = {}
    for member, following in zip(members, (*members[1:], None), strict=True):
        offset = locate(file, member)
        if offset + member.stored > (size if following is None else following.header):
            raise CorruptFile(f"the zip member {clip(member.name)} runs into the next one")
        offsets[member.name] = offset
    return offsets


def _end(file: IO[bytes], size: int) -> tuple[int, int, int]:
    """Start, length and number of entries of the directory."""
    tail_size = min(size, _END.size + 0xFFFF)
    tail = read_at(file, size - tail_size, tail_size, "the zip directory")
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise CorruptFile("the zip archive has no directory at its end: it was cut short")
    _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise CorruptFile("there are bytes after the end of the zip archive")
    if disk or first_disk or here != count:
        raise CorruptFile("the zip archive is one of several parts")
    end = size - tail_size + at
    if 0xFFFFFFFF in (length, start) or count == 0xFFFF or _has_locator(file, end):
        start, length, count, end = _end64(file, end)
    if start + length != end:
        raise CorruptFile("the zip directory does not end where the archive does")
    return start, length, count


def _has_locator(file: IO[bytes], end: int) -> bool:
    if end < _LOCATOR64.size:
        return False
    return read_at(file, end - _LOCATOR64.size, 4, "the zip directory") == b"PK\x06\x07"


def _end64(file: IO[bytes], end: int) -> tuple[int, int, int, int]:
    if end < _LOCATOR64.size + _END64.size:
        raise CorruptFile("the zip directory is damaged")
    place = end - _LOCATOR64.size
    magic, _, at, _ = _LOCATOR64.unpack(read_at(file, place, _LOCATOR64.size, "the directory"))
    if magic != b"PK\x06\x07" or at + _END64.size > place:
        raise CorruptFile("the zip directory is damaged")
    found = _END64.unpack(read_at(file, at, _END64.size, "the zip directory"))
    magic, record, _, _, disk, first_disk, here, count, length, start = found
    if magic != b"PK\x06\x06" or disk or first_disk or here != count or at + record + 12 != place:
        raise CorruptFile("the zip directory is damaged")
    return start, length, count, at


def _entry(data: bytes, at: int) -> tuple[Member, int]:
    if at + _ENTRY.size > len(data):
        raise CorruptFile("the zip directory is cut short")
    fields = _ENTRY.unpack_from(data, at)
    magic, _, _, flags, method, _, _, crc, stored, size = fields[:10]
    name_length, extra_length, comment_length, _, _, _, header = fields[10:]
    body = at + _ENTRY.size
    end = body + name_length + extra_length + comment_length
    if magic != b"PK\x01\x02" or end > len(data):
        raise CorruptFile("the zip directory is damaged")
    name = _decode(data[body : body + name_length])
    if flags & _ENCRYPTED:
        raise CorruptFile(f"the zip member {clip(name)} is encrypted")
    extra = data[body + name_length : body + name_length + extra_length]
    size, stored, header = _zip64(extra, size, stored, header)
    if method == STORED and size != stored:
        raise CorruptFile(f"the zip member {clip(name)} has two sizes")
    member = Member(name=name, method=method, size=size, stored=stored, crc=crc, header=header)
    return member, end


def _zip64(extra: bytes, size: int, stored: int, header: int) -> tuple[int, int, int]:
    values = [size, stored, header]
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        body = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind != 1:
            continue
        wanted = [i for i, value in enumerate(values) if value == 0xFFFFFFFF]
        if len(body) < 8 * len(wanted):
            raise CorruptFile("the zip directory is damaged")
        for place, i in enumerate(wanted):
            values[i] = int.from_bytes(body[8 * place : 8 * place + 8], "little")
    return values[0], values[1], values[2]


def _decode(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile("the zip archive holds a name that is not UTF-8") from error


def _check_names(members: list[Member]) -> None:
    seen: set[str] = set()
    for member in members:
        name = member.name
        steps = name.split("/")
        if (
            not name
            or len(name) > _MAX_NAME
            or name.startswith("/")
            or ".." in steps
            or any(ord(c) < 32 or c in "\\:" for c in name)
        ):
            raise CorruptFile(f"the zip archive holds a member with the name {clip(name)}")
        if name in seen:
            raise CorruptFile(f"the zip archive holds {clip(name)} twice")
        seen.add(name)
