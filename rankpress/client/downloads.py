"""Downloading: to a temporary name beside the target, verified, then renamed.

A cut connection is taken up where it broke (`Range` with `If-Range`, RFC 9110). The target is
never half-written, and no name or path from the server is used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rankpress.client import answers
from rankpress.client.effects import Answer, ByteProgress, Call, Flow, Sleep, blocking, perform
from rankpress.client.errors import (
    ConnectionFailed,
    DownloadCorrupt,
    TimedOut,
    UnexpectedAnswer,
)
from rankpress.client.retry import RetryPolicy, is_retried

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def download(
    url_path: str,
    target: Path,
    *,
    params: Mapping[str, str] | None = None,
    progress: ByteProgress | None,
    policy: RetryPolicy,
) -> Flow[Path]:
    """Writes the resource to `target`, replacing a file of that name only when all is right.
    Attempts are counted anew whenever one brought bytes.

    Raises `DownloadCorrupt`, `UnexpectedAnswer`, `ConnectionFailed`, `TimedOut`, the server's
    problems, and `OSError` from writing.
    """
    partial = yield from blocking(lambda: Partial.create(target))
    try:
        failures = 0
        while True:
            before = partial.done_bytes
            try:
                answer = yield from perform(_call(url_path, params or {}, partial, progress))
            except (ConnectionFailed, TimedOut):
                failures = 1 if partial.done_bytes > before else failures + 1
                if failures >= policy.attempts:
                    raise
                yield Sleep(policy.delay(failures))
                continue
            if answer.status in (200, 206) and partial.complete:
                break
            failures += 1
            if answer.status == 416 and failures < policy.attempts:
                # What was announced has changed in size: start over.
                yield from blocking(partial.restart)
                continue
            if answer.status in (200, 206):
                if failures >= policy.attempts:
                    raise ConnectionFailed("the server keeps ending the download early")
                yield Sleep(policy.delay(failures))
                continue
            if not is_retried(answer) or failures >= policy.attempts:
                raise answers.error_of(answer)
            yield Sleep(policy.delay(failures, answer.headers.get("retry-after")))
        yield from blocking(partial.commit)
    finally:
        # Not an effect: it must run, too, when the flow is closed from outside.
        partial.discard()
    return target


def _call(
    url_path: str, params: Mapping[str, str], partial: Partial, progress: ByteProgress | None
) -> Call:
    # identity: the bytes counted, hashed and resumed at must be those of the file.
    # The digest comes with the bytes: a store that the service sends us to does not tell it.
    headers = {
        "Accept-Encoding": "identity",
        "Accept": "*/*",
        "Want-Repr-Digest": "sha-256=10",
    }
    if partial.done_bytes and partial.etag is not None:
        headers |= {"Range": f"bytes={partial.done_bytes}-", "If-Range": partial.etag}

    def advance(_count: int) -> None:
        if progress is not None:
            progress(partial.done_bytes, partial.size_bytes)

    return Call(
        method="GET",
        path=url_path,
        params=params,
        headers=headers,
        sink=partial,
        progress=advance,
    )


@dataclass(eq=False, kw_only=True)
class Partial:
    """The temporary file and what is known of the whole."""

    target: Path
    path: Path
    file: BinaryIO
    done_bytes: int = 0
    size_bytes: int | None = None
    etag: str | None = None
    sha256: bytes | None = None

    def __post_init__(self) -> None:
        self._hash = hashlib.sha256()

    @classmethod
    def create(cls, target: Path) -> Partial:
        """In the target's folder, so that the last step is one rename. Raises `OSError`."""
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder; name the file to write")
        path = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
        return cls(target=target, path=path, file=path.open("xb"))

    @property
    def complete(self) -> bool:
        return self.size_bytes is not None and self.done_bytes == self.size_bytes

    def open(self, answer: Answer) -> None:
        etag, sha256 = answer.headers.get("etag"), announced_sha256(answer)
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnexpectedAnswer("the server encodes the download though it was asked not to")
        if answer.status == 206:
            start, size = _range_of(answer)
            if start != self.done_bytes or etag != self.etag:
                raise UnexpectedAnswer("the server resumed the download at another place or file")
            self.size_bytes = size if size is not None else self.size_bytes
            return
        # 200: the whole, because it is the first answer or because the resource has changed.
        if self.done_bytes:
            self.restart()
        length = answer.headers.get("content-length", "")
        self.size_bytes = int(length) if length.isascii() and length.isdigit() else None
        if self.size_bytes is None:
            raise UnexpectedAnswer("the server does not tell the download's size")
        if sha256 is None:
            raise UnexpectedAnswer("the server tells no SHA-256 of the download")
        self.etag, self.sha256 = etag, sha256

    def write(self, chunk: bytes) -> None:
        if self.size_bytes is not None and self.done_bytes + len(chunk) > self.size_bytes:
            raise UnexpectedAnswer("the server sends more bytes than it announced")
        self.file.write(chunk)
        self._hash.update(chunk)
        self.done_bytes += len(chunk)

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self._hash = hashlib.sha256()
        self.done_bytes, self.size_bytes, self.etag, self.sha256 = 0, None, None, None

    def commit(self) -> None:
        """Verify, flush to the disk, rename, and flush the folder's entry."""
        if self._hash.digest() != self.sha256:
            raise DownloadCorrupt(
                "the downloaded bytes do not have the SHA-256 that the server announced; "
                "nothing was kept"
            )
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.path.replace(self.target)
        _sync_folder(self.target.parent)

    def discard(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


def announced_sha256(answer: Answer) -> bytes | None:
    """From `Repr-Digest` (RFC 9530), else from a strong ETag that is a SHA-256 in hex."""
    for item in answer.headers.get("repr-digest", "").split(","):
        name, _, value = item.strip().partition("=")
        if name.strip().lower() == "sha-256":
            try:
                digest = base64.b64decode(value.strip().strip(":"), validate=True)
            except binascii.Error:
                continue
            if len(digest) == 32:
                return digest
    found = re.fullmatch(r'"([0-9a-f]{64})"', answer.headers.get("etag", ""))
    return bytes.fromhex(found[1]) if found else None


def _range_of(answer: Answer) -> tuple[int, int | None]:
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    if found is None:
        raise UnexpectedAnswer("the server resumed the download without saying where")
    return int(found[1]), None if found[3] == "*" else int(found[3])


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
