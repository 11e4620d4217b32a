"""Uploading: the file is hashed first, so that the server can check what it received. Small files
go in one request, large ones resumably (draft-ietf-httpbis-resumable-upload)."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote

from rankpress.client import answers, resume
from rankpress.client.effects import (
    CHUNK_BYTES,
    Body,
    ByteProgress,
    Call,
    Flow,
    blocking,
)
from rankpress.client.resume import Counted, patience_seconds
from rankpress.client.retry import RetryPolicy, send
from rankpress.schemas.upload import Upload

RESUMABLE_BYTES = 16 * CHUNK_BYTES

Source = str | os.PathLike[str] | BinaryIO


class SizedBody(Body, Protocol):
    """A body whose size and digest are known before it is sent."""

    def measure(self) -> tuple[int, bytes]:
        """Bytes and SHA-256 digest. Reads everything once."""
        ...


@dataclass(frozen=True)
class PathBody:
    """A file on disk."""

    path: Path

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(start)
            yield from _chunks(file)

    def measure(self) -> tuple[int, bytes]:
        return _measure(self.chunks())


@dataclass(frozen=True)
class FileBody:
    """An open binary file, from where it stands to its end."""

    file: BinaryIO
    origin: int

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        self.file.seek(self.origin + start)
        yield from _chunks(self.file)

    def measure(self) -> tuple[int, bytes]:
        return _measure(self.chunks())


def body_of(source: Source) -> tuple[SizedBody, str | None]:
    """The body, and the file name it suggests. Raises `ValueError` for an open file that cannot
    be read twice: send its bytes with `upload_bytes`."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return PathBody(path), path.name
    if not source.seekable():
        raise ValueError("the open file cannot be rewound; pass a path, or upload_bytes(data)")
    named = getattr(source, "name", None)
    return FileBody(source, source.tell()), Path(named).name if isinstance(named, str) else None


def upload(
    source: Source, *, filename: str | None, progress: ByteProgress | None, policy: RetryPolicy
) -> Flow[Upload]:
    """A small file: one POST, tried again from the start when the connection breaks; the record of
    an upload exists only once all its bytes were received and their digest was right. A large one
    goes on from where it broke."""
    body, suggested = body_of(source)
    size_bytes, digest = yield from blocking(body.measure)
    headers = {
        "Content-Type": "application/octet-stream",
        "Repr-Digest": repr_digest(digest),
        **_disposition(filename or suggested),
    }
    if size_bytes > RESUMABLE_BYTES:
        return (yield from resume.upload(body, size_bytes, headers, progress, policy))
    counted = Counted(body, size_bytes, progress)
    call = Call(
        method="POST",
        path="/v1/uploads",
        headers={**headers, "Content-Length": str(size_bytes)},
        body=counted,
        progress=counted.advance,
        hold_seconds=patience_seconds(size_bytes),
    )
    return answers.parse((yield from send(call, policy)), Upload)


def upload_bytes(
    data: bytes, *, filename: str | None, progress: ByteProgress | None, policy: RetryPolicy
) -> Flow[Upload]:
    return upload(io.BytesIO(data), filename=filename, progress=progress, policy=policy)


def repr_digest(digest: bytes) -> str:
    """RFC 9530."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def _disposition(filename: str | None) -> dict[str, str]:
    """RFC 6266, the name percent-encoded, so that no character of it can end the header."""
    if not filename:
        return {}
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}"}


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _measure(chunks: Iterator[bytes]) -> tuple[int, bytes]:
    sha256, size = hashlib.sha256(), 0
    for chunk in chunks:
        sha256.update(chunk)
        size += len(chunk)
    return size, sha256.digest()
