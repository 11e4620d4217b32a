"""The form that torch.save wrote before 1.6, and writes on request: a sequence of pickles (magic
number, protocol, system, the value, the storages' keys), then each storage as a count of elements
and its bytes."""

from __future__ import annotations

from typing import IO

from rankpress.errors import CorruptFile, UnsupportedFormat
from rankpress.formats import dtypes
from rankpress.formats.binary import Cursor, read_at
from rankpress.formats.limits import Limits
from rankpress.formats.nodes import Storage, Value, mapping_of, walk
from rankpress.formats.safetensors import clip
from rankpress.formats.torch_contents import Contents, check_storages
from rankpress.formats.unpickling import read_pickle

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
MAGIC_BYTES = MAGIC_NUMBER.to_bytes(10, "little")
PROTOCOL_VERSION = 1001
_COUNT_BYTES = 8


def looks_legacy(head: bytes) -> bool:
    """Whether the first pickle is the magic number, whatever the protocol."""
    return MAGIC_BYTES in head[:64] and head[:1] == b"\x80"


def read_contents(
    file: IO[bytes], size: int, limits: Limits
) -> tuple[Contents, dict[str, tuple[int, int]]]:
    """The description, and storage key -> (offset in the file, bytes)."""
    cursor = Cursor(file, min(size, limits.max_header_bytes))
    if read_pickle(cursor, limits) != MAGIC_NUMBER:
        raise CorruptFile("the file does not begin with torch's magic number")
    version = read_pickle(cursor, limits)
    if version != PROTOCOL_VERSION:
        raise UnsupportedFormat("the file was written by an unknown version of torch.save")
    system = mapping_of(read_pickle(cursor, limits))
    if system is None or system.get("little_endian") is not True:
        raise UnsupportedFormat(
            "the file was written on a big-endian machine; load it there and save safetensors"
        )
    root = read_pickle(cursor, limits)
    keys = read_pickle(cursor, limits)
    offsets = _storages(file, size, cursor.position, root, keys)
    sizes = {key: nbytes for key, (_, nbytes) in offsets.items()}
    return check_storages(root, sizes, size, limits), offsets


def _storages(
    file: IO[bytes], size: int, start: int, root: Value, keys: Value
) -> dict[str, tuple[int, int]]:
    if type(keys) is not list or not all(isinstance(key, str | int) for key in keys):
        raise CorruptFile("the file does not list the keys of its storages")
    mentioned = {value.key: value for _, value in walk(root) if isinstance(value, Storage)}
    offsets: dict[str, tuple[int, int]] = {}
    at = start
    for key in map(str, keys):
        storage = mentioned.get(key)
        if storage is None or key in offsets:
            raise CorruptFile(f"the file holds a storage {clip(key)} that no tensor uses")
        if at + _COUNT_BYTES > size:
            raise CorruptFile("the file ends before its last storage: it was cut short")
        count = int.from_bytes(read_at(file, at, _COUNT_BYTES, "a storage"), "little", signed=True)
        nbytes = dtypes.nbytes(storage.dtype, (storage.numel,))
        if count != storage.numel:
            raise CorruptFile(
                f"storage {clip(key)} should have {storage.numel} elements, and has {count}"
            )
        if at + _COUNT_BYTES + nbytes > size:
            raise CorruptFile("the file ends in the middle of a storage: it was cut short")
        offsets[key] = (at + _COUNT_BYTES, nbytes)
        at += _COUNT_BYTES + nbytes
    if at != size:
        raise CorruptFile(f"there are {size - at} bytes after the last storage")
    return offsets
