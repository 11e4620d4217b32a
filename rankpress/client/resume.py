"""Resumable uploads: created empty, then appended to; after a cut the server says how far it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from rankpress.client import answers
from rankpress.client.effects import Answer, Body, ByteProgress, Call, Flow, Sleep, perform
from rankpress.client.errors import ConnectionFailed, SourceChanged, TimedOut, UnexpectedAnswer
from rankpress.client.retry import RetryPolicy, is_retried, send
from rankpress.schemas.upload import Upload

# What the server may take to put a received file in its place and look into it.
STORE_BYTES_PER_SECOND = 50e6


def upload(
    body: Body,
    size_bytes: int,
    headers: Mapping[str, str],
    progress: ByteProgress | None,
    policy: RetryPolicy,
) -> Flow[Upload]:
    """Attempts are counted anew whenever one brought bytes. Raises the server's problems, and
    `ConnectionFailed` or `TimedOut` when the attempts are used up."""
    create = Call(
        method="POST",
        path="/v1/uploads",
        headers={**headers, "Upload-Complete": "?0", "Upload-Length": str(size_bytes)},
        content=b"",
    )
    path = _path_of((yield from send(create, policy)))
    offset, failures = 0, 0
    while True:
        retry_after: str | None = None
        try:
            answer = yield from perform(_append(path, body, size_bytes, offset, headers, progress))
        except (ConnectionFailed, TimedOut):
            failures += 1
            if failures >= policy.attempts:
                raise
        else:
            if 200 <= answer.status < 300:
                return answers.parse(answer, Upload)
            failures += 1
            moved = answer.status in (400, 409) and "upload-offset" in answer.headers
            if failures >= policy.attempts or not (moved or is_retried(answer)):
                raise answers.error_of(answer)
            retry_after = answer.headers.get("retry-after")
        yield Sleep(policy.delay(failures, retry_after))
        place = answers.check((yield from send(Call(method="HEAD", path=path), policy)))
        if place.headers.get("upload-complete") == "?1":
            # The answer was lost, not the upload.
            found = yield from send(Call(method="GET", path=path), policy)
            return answers.parse(found, Upload)
        at = _offset_of(place, size_bytes)
        failures = 1 if at > offset else failures
        offset = at


def _append(
    path: str,
    body: Body,
    size_bytes: int,
    offset: int,
    headers: Mapping[str, str],
    progress: ByteProgress | None,
) -> Call:
    counted = Counted(body, size_bytes, progress, offset)
    return Call(
        method="PATCH",
        path=path,
        headers={
            "Content-Type": "application/partial-upload",
            "Content-Length": str(size_bytes - offset),
            "Upload-Offset": str(offset),
            "Upload-Complete": "?1",
            "Repr-Digest": headers["Repr-Digest"],
        },
        body=counted,
        progress=counted.advance,
        hold_seconds=patience_seconds(size_bytes),
    )


def _path_of(created: Answer) -> str:
    """From `Location`, its last part alone: the server does not choose where else to send."""
    answers.check(created)
    upload_id = urlsplit(created.headers.get("location", "")).path.rpartition("/")[2]
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", upload_id):
        raise UnexpectedAnswer("the server began an upload without saying where it is")
    return f"/v1/uploads/{upload_id}"


def _offset_of(place: Answer, size_bytes: int) -> int:
    text = place.headers.get("upload-offset", "")
    if not (text.isascii() and text.isdigit()) or int(text) > size_bytes:
        raise UnexpectedAnswer("the server does not say how far the upload is")
    return int(text)


def patience_seconds(size_bytes: int) -> float:
    return size_bytes / STORE_BYTES_PER_SECOND


class Counted:
    """A body from an offset on that knows how far it is; each attempt counts from there again."""

    def __init__(
        self, body: Body, size_bytes: int, progress: ByteProgress | None, offset: int = 0
    ) -> None:
        self._body = body
        self._size_bytes = size_bytes
        self._progress = progress
        self._offset = self._done = offset

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        at = self._done = self._offset + start
        for chunk in self._body.chunks(at):
            at += len(chunk)
            if at > self._size_bytes:
                break
            yield chunk
        if at != self._size_bytes:
            raise SourceChanged("the file changed its size while it was being uploaded")

    def advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._size_bytes)
