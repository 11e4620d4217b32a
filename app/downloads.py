"""A stored object on its way out: validators, ranges, and never more than a few MiB in memory."""

from __future__ import annotations

from typing import NamedTuple

from fastapi import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from app.headers import (
    ByteRange,
    Unsatisfiable,
    attachment,
    digest_field,
    etag_matches,
    parse_range,
)
from rankpress.errors import PreconditionFailed, RangeNotSatisfiable
from rankpress.service.store import Store


class Download(NamedTuple):
    """What is sent. The bytes never change, so their SHA-256 is a strong validator."""

    key: str
    size_bytes: int
    sha256: str
    filename: str
    media_type: str = "application/octet-stream"

    @property
    def etag(self) -> str:
        return f'"{self.sha256}"'


def respond(
    request: Request, store: Store, what: Download, location: str | None = None
) -> Response:
    """200, 206, 304, 307, 412 or 416, in RFC 9110's order of preconditions (13.2.2). With a
    `location` a GET is sent there, once the preconditions hold."""
    headers = {
        "ETag": what.etag,
        "Repr-Digest": digest_field(what.sha256),
        "Accept-Ranges": "bytes",
        # Private, and asked again each time: that is what makes the validator useful.
        "Cache-Control": "private, no-cache",
        "Content-Disposition": attachment(what.filename),
    }
    asked = request.headers
    if (must := asked.get("if-match")) is not None and not etag_matches(
        must, what.etag, weak=False
    ):
        raise PreconditionFailed(f"the weights' entity tag is {what.etag}")
    if (known := asked.get("if-none-match")) is not None and etag_matches(
        known, what.etag, weak=True
    ):
        return Response(status_code=304, headers=headers)
    if location is not None and may_redirect(request):
        # Whoever has the URL has the bytes: no cache may keep it.
        return RedirectResponse(location, 307, headers={"Cache-Control": "no-store"})
    part = _range(request, what)
    start, end = part or (0, what.size_bytes)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{what.size_bytes}"
    status = 200 if part is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=what.media_type)
    return StreamingResponse(
        store.stream(what.key, start, end),
        status_code=status,
        headers=headers,
        media_type=what.media_type,
    )


def may_redirect(request: Request) -> bool:
    """The store knows another entity tag than ours, so it could not judge `If-Range`; it does not
    tell the digest (RFC 9530); and its URL is signed for GET."""
    return request.method == "GET" and not {"if-range", "want-repr-digest"} & set(request.headers)


def _range(request: Request, what: Download) -> ByteRange | None:
    """A range is defined for GET alone, and counts only while `If-Range` holds."""
    condition = request.headers.get("if-range")
    if request.method != "GET" or (condition is not None and condition.strip() != what.etag):
        return None
    try:
        return parse_range(request.headers.get("range"), what.size_bytes)
    except Unsatisfiable as error:
        raise RangeNotSatisfiable(
            f"the range begins beyond the end; the weights have {what.size_bytes} bytes",
            headers={"Content-Range": f"bytes */{what.size_bytes}"},
        ) from error
