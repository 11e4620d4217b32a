"""An uncompressed tar or zip that holds one sharded checkpoint: the index and its shards."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from rankpress.errors import CorruptFile, PayloadTooLarge, UnsupportedFormat
from rankpress.formats import zips
from rankpress.formats.safetensors import clip
from rankpress.formats.shards import is_plain_name

MAX_FILES = 10_000
_MAX_TAR_READ = 64 * 1024  # a header, or an extended one: never a file


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A file inside an archive: its name without folders, and where its bytes lie."""

    name: str
    offset: int
    size: int


def zip_parts(file: IO[bytes], size: int, members: tuple[zips.Member, ...]) -> tuple[Part, ...]:
    """Raises `UnsupportedFormat` for compressed members and `CorruptFile`."""
    _check_count(len(members))
    for member in members:
        if member.method != zips.STORED:
            raise UnsupportedFormat(
                f"member {clip(member.name)} of the zip is compressed; send an uncompressed tar "
                "or zip of the shards and their index (zip -0), or upload the files one by one"
            )
    offsets = zips.contiguous(file, members, size)
    return _plain((m.name, offsets[m.name], m.size) for m in members if not m.name.endswith("/"))


class _Guarded:
    """A file for tarfile that never hands out more than a header at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_TAR_READ:
            raise CorruptFile("the tar archive has an impossible header")
        return self._file.read(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def tar_parts(file: IO[bytes], size: int) -> tuple[Part, ...]:
    """Raises `CorruptFile` for links, devices, sparse members and what tarfile does not like."""
    file.seek(0)
    found: list[tuple[str, int, int]] = []
    seen = 0
    try:
        with tarfile.open(fileobj=_Guarded(file), mode="r:") as tar:
            while (member := tar.next()) is not None:
                seen += 1
                _check_count(seen)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise CorruptFile(f"the tar member {clip(member.name)} is no plain file")
                if member.size < 0 or member.offset_data + member.size > size:
                    raise CorruptFile("the tar archive was cut short; send it again")
                found.append((member.name, member.offset_data, member.size))
    except (tarfile.TarError, ValueError, OverflowError, OSError, EOFError) as error:
        raise CorruptFile("the tar archive is damaged") from error
    return _plain(found)


def _check_count(count: int) -> None:
    if count > MAX_FILES:
        raise PayloadTooLarge(f"the archive holds more than {MAX_FILES} files, which is the limit")


def _plain(found: Any) -> tuple[Part, ...]:
    parts: dict[str, Part] = {}
    for path, offset, size in found:
        steps = path.split("/")
        name = PurePosixPath(path).name
        if path.startswith("/") or ".." in steps or not is_plain_name(name):
            raise CorruptFile(f"the archive holds a file with the name {clip(path)}")
        if name in parts:
            raise CorruptFile(f"the archive holds two files named {clip(name)}")
        parts[name] = Part(name=name, offset=offset, size=size)
    return tuple(parts.values())
