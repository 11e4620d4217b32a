"""An .npz: a zip of .npy arrays, each described by a header that is a Python literal. Members may
be deflated (numpy.savez_compressed); what they unpack to is bounded by what they declare."""

from __future__ import annotations

import ast
import math
import struct
import zlib
from typing import IO

from rankpress.errors import CorruptFile, TooLargeInside, UnsafePickle, UnsupportedFormat
from rankpress.formats import zips
from rankpress.formats.binary import read_at
from rankpress.formats.limits import Limits
from rankpress.formats.safetensors import MAX_DIMENSIONS, clip
from rankpress.schemas.upload import TensorInfo

MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # numpy's own bound for a header that is parsed as a literal
_NAMES = {
    "b1": "bool",
    **{f"i{n}": f"int{8 * n}" for n in (1, 2, 4, 8)},
    **{f"u{n}": f"uint{8 * n}" for n in (1, 2, 4, 8)},
    **{f"f{n}": f"float{8 * n}" for n in (2, 4, 8)},
    "c8": "complex64",
    "c16": "complex128",
}
_SEND = "send arrays of numbers saved with numpy.savez, or safetensors"


def is_npz(members: tuple[zips.Member, ...]) -> bool:
    return all(member.name.endswith(".npy") for member in members)


def read_tensors(
    file: IO[bytes], size: int, members: tuple[zips.Member, ...], limits: Limits
) -> tuple[TensorInfo, ...]:
    """Raises `CorruptFile`, `UnsafePickle` (object arrays), `UnsupportedFormat`,
    `TooLargeInside`."""
    declared = sum(member.size for member in members)
    allowed = max(limits.free_inflation_bytes, limits.max_inflation * size)
    if declared > allowed:
        raise TooLargeInside(
            f"the arrays unpack to {declared} bytes from a file of {size}; allowed are {allowed}"
        )
    return tuple(_member(file, size, member) for member in members)


def _member(file: IO[bytes], size: int, member: zips.Member) -> TensorInfo:
    name = member.name.removesuffix(".npy")
    if member.method not in (zips.STORED, zips.DEFLATED):
        raise UnsupportedFormat(
            f"array {clip(name)} is compressed by an unusual method; use numpy.savez"
        )
    start = zips.locate(file, member)
    if start + member.stored > size:
        raise CorruptFile(f"array {clip(name)} runs past the end of the file")
    raw = read_at(file, start, min(member.stored, 2 * _MAX_HEADER), f"array {clip(name)}")
    head = raw if member.method == zips.STORED else _inflate(raw, name)
    dtype, shape, length = parse_header(head, name)
    item = int(dtype[2:])
    if length + math.prod(shape) * item != member.size:
        raise CorruptFile(f"array {clip(name)} of shape {list(shape)} has the wrong size")
    return TensorInfo(name=name, dtype=_NAMES[dtype[1:]], shape=shape)


def parse_header(head: bytes, name: str) -> tuple[str, tuple[int, ...], int]:
    """numpy's dtype text, the shape, and the bytes before the data."""
    if head[:6] != MAGIC or len(head) < 12 or head[6] not in (1, 2, 3):
        raise CorruptFile(f"array {clip(name)} is no .npy file")
    form = "<H" if head[6] == 1 else "<L"
    (length,) = struct.unpack_from(form, head, 8)
    start = 8 + struct.calcsize(form)
    if length > _MAX_HEADER or start + length > len(head):
        raise CorruptFile(f"array {clip(name)} has a damaged header")
    try:
        fields = ast.literal_eval(head[start : start + length].decode("latin-1").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise CorruptFile(f"array {clip(name)} has a damaged header") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise CorruptFile(f"array {clip(name)} has a damaged header")
    descr, shape = fields["descr"], fields["shape"]
    if isinstance(descr, str) and "O" in descr:
        raise UnsafePickle(
            f"array {clip(name)} holds pickled Python objects, which only code can read; {_SEND}"
        )
    if not isinstance(descr, str) or descr[:1] not in "<|=" or descr[1:] not in _NAMES:
        raise UnsupportedFormat(
            f"array {clip(name)} has the element type {clip(descr)}; "
            f"{_SEND} in little-endian byte order"
        )
    if (
        not isinstance(shape, tuple)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and 0 <= n < 2**62 for n in shape)
    ):
        raise CorruptFile(f"array {clip(name)} has an impossible shape")
    return descr, shape, start + length


def _inflate(raw: bytes, name: str) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, _MAX_HEADER + 16)
    except zlib.error as error:
        raise CorruptFile(f"array {clip(name)} cannot be unpacked") from error
