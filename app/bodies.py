"""What a request's headers say about the file in its body."""

from __future__ import annotations

from typing import Literal

from fastapi import Request

from app.context import Services
from app.headers import parse_digest, parse_disposition
from rankpress.errors import (
    BadRequest,
    InsufficientStorage,
    PayloadTooLarge,
    UnsupportedMediaType,
)


def check_body_headers(request: Request, services: Services, media_type: str) -> None:
    """What the headers alone already forbid, before a byte of the body is asked for."""
    found = request.headers.get("content-type", media_type).split(";")[0].strip().lower()
    if found != media_type:
        raise UnsupportedMediaType(
            f"the body is the file's bytes, as {media_type}; found Content-Type {found[:80]!r}",
            headers={"Accept-Patch": media_type} if request.method == "PATCH" else None,
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding {coding[:40]!r} is not undone here; send the file's own bytes",
            headers={"Accept-Encoding": "identity"},
        )
    length = request.headers.get("content-length")
    if length is None:
        return
    if not (length.isascii() and length.isdigit()):
        raise BadRequest("Content-Length: a number of bytes is expected")
    limit = services.settings.max_upload_bytes
    if int(length[:20]) > limit:
        raise PayloadTooLarge(f"the file may have {limit} bytes at most; {length[:20]} announced")
    free = services.store.free_bytes()
    if free is not None and int(length) > free:
        raise InsufficientStorage("the service's store has not that much space left")


def announced_digest(
    request: Request, *fields: Literal["Repr-Digest", "Content-Digest"]
) -> bytes | None:
    """Of the file. With no coding in between, `Content-Digest` of a whole body means the same."""
    for field in fields or ("Repr-Digest", "Content-Digest"):
        digest = parse_digest(field, request.headers.get(field))
        if digest is not None:
            return digest
    return None


def announced_name(request: Request) -> str | None:
    value = request.headers.get("content-disposition")
    if value is None:
        return None
    # ASGI hands the octets on as Latin-1; what clients send raw is UTF-8.
    return parse_disposition(value.encode("latin-1").decode("utf-8", "replace")).filename
