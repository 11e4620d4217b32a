"""An `.npz` without pickle, streamed: each array is read through from its start, batch by batch.

Deflated members cost no more memory than stored ones, since nothing is read ahead, and zipfile
checks the CRC of each member on the way.
"""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from rankpress.errors import CorruptFile, UnsafePickle, UnsupportedFormat
from worker.evaluation.arrayfile import ArrayInfo

_MAX_HEADER_BYTES = 10_000  # numpy's own bound for a header that is parsed as Python literals
_MAX_MEMBERS = 1000
# What numpy's parser of Python literals raises on text that is none.
_HEADER_ERRORS = (
    ValueError,
    SyntaxError,
    TypeError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)


@dataclass(frozen=True, kw_only=True)
class NpyMember:
    """One array of the archive."""

    info: ArrayInfo
    member: str
    numpy_dtype: np.dtype[Any]


class NpzArrays:
    """The arrays of an opened archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if len(infos) > _MAX_MEMBERS:
            raise UnsupportedFormat(f"The .npz file holds more than {_MAX_MEMBERS} arrays.")
        members = [_read_info(archive, info) for info in infos]
        self._members = {member.info.name: member for member in members}
        self.arrays: Mapping[str, ArrayInfo] = {
            name: member.info for name, member in self._members.items()
        }
        if len(self.arrays) != len(members):
            raise CorruptFile("The .npz file holds two arrays of one name.")

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[NpzArrays]:
        """Raises CorruptFile, UnsupportedFormat, UnsafePickle."""
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            raise CorruptFile(
                "The validation file begins as a zip archive (.npz), but its directory cannot be "
                "read; it may be cut short. Send it again."
            ) from error
        with archive:
            yield cls(archive)

    def batches(self, names: Sequence[str], batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        """`batch_size` rows at a time. Raises CorruptFile when the bytes are too few or damaged."""
        wanted = [self._members[name] for name in names]
        rows = min(member.info.shape[0] for member in wanted)
        with ExitStack() as stack:
            streams = [stack.enter_context(self._archive.open(m.member)) for m in wanted]
            for member, stream in zip(wanted, streams, strict=True):
                _read_header(stream, member.member)
            for start in range(0, rows, batch_size):
                count = min(batch_size, rows - start)
                yield {
                    member.info.name: _read_rows(member, stream, count)
                    for member, stream in zip(wanted, streams, strict=True)
                }


def _read_info(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NpyMember:
    name = info.filename.removesuffix(".npy")
    if name == info.filename:
        raise UnsupportedFormat(
            f"The zip archive holds {info.filename[:80]!r}, which is no array; send an .npz made "
            "by numpy.savez(path, inputs=..., targets=...)."
        )
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsupportedFormat(
            f"The array {name!r} is encrypted, or compressed otherwise than by deflate; send an "
            ".npz made by numpy.savez or numpy.savez_compressed."
        )
    try:
        with archive.open(info) as stream:
            shape, fortran, dtype = _read_header(stream, info.filename)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise CorruptFile(f"The array {name!r} of the .npz file is damaged.") from error
    if dtype.hasobject:
        raise UnsafePickle(
            f"The array {name!r} holds Python objects, which are a pickle and are not read; send "
            "a numeric array (array.astype('float32'), or a list of equal lengths)."
        )
    if fortran and len(shape) > 1:
        raise UnsupportedFormat(
            f"The array {name!r} is stored column by column (Fortran order), so its samples "
            "cannot be streamed; save numpy.ascontiguousarray(array)."
        )
    return NpyMember(
        info=ArrayInfo(name=name, dtype=dtype.name, shape=shape),  # numpy's names are torch's
        member=info.filename,
        numpy_dtype=dtype,
    )


def _read_header(stream: IO[bytes], member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of an .npy stream, left at its first element.

    The header's length is read here first: numpy would take up to 4 GiB at the file's word.
    """
    head = stream.read(8)
    sizes = {1: 2, 2: 4}
    if head[:6] != b"\x93NUMPY" or len(head) < 8 or head[6] not in sizes:
        raise CorruptFile(f"The member {member[:80]!r} of the .npz file is no .npy array.")
    length_bytes = stream.read(sizes[head[6]])
    length = int.from_bytes(length_bytes, "little")
    if length > _MAX_HEADER_BYTES:
        raise CorruptFile(f"The member {member[:80]!r} has an .npy header of {length} bytes.")
    header = io.BytesIO(length_bytes + stream.read(length))
    try:
        shape, fortran, dtype = (
            np.lib.format.read_array_header_1_0(header)
            if head[6] == 1
            else np.lib.format.read_array_header_2_0(header)
        )
    except _HEADER_ERRORS as error:
        raise CorruptFile(f"The member {member[:80]!r} has a damaged .npy header.") from error
    if any(d < 0 for d in shape):
        raise CorruptFile(f"The member {member[:80]!r} has a negative size in its shape.")
    return shape, fortran, dtype


def _read_rows(member: NpyMember, stream: IO[bytes], rows: int) -> torch.Tensor:
    shape = (rows, *member.info.shape[1:])
    wanted = int(np.prod(shape, dtype=object)) * member.numpy_dtype.itemsize
    try:
        data = stream.read(wanted)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise CorruptFile(f"The array {member.info.name!r} of the .npz file is damaged.") from error
    if len(data) != wanted:
        raise CorruptFile(
            f"The array {member.info.name!r} ends early: its header says {list(member.info.shape)}."
        )
    array = np.frombuffer(bytearray(data), member.numpy_dtype)
    native = array.astype(member.numpy_dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(native).reshape(shape)
