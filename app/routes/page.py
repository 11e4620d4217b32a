"""The page at `/` and its files: a client of the public API, served as it lies in app/page.

Nothing is built and nothing is fetched from elsewhere. The policy lets the page run its own
scripts and styles, talk to this service, and nothing more.
"""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.headers import etag_matches
from rankpress.errors import NotFound

router = APIRouter(include_in_schema=False)
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again each time, answered with 304
}


class Asset(NamedTuple):
    body: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Every file of the page, about 60 kB. A name that is none of these cannot be a path."""
    found = {}
    for file in resources.files("app").joinpath("page").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in MEDIA_TYPES:
            body = file.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[file.name] = Asset(body, MEDIA_TYPES[suffix], etag)
    return found


@router.get("/")
async def page(request: Request) -> Response:
    return await _serve(request, "index.html")


@router.get("/page/{name}")
async def page_file(name: str, request: Request) -> Response:
    return await _serve(request, name)


async def _serve(request: Request, name: str) -> Response:
    asset = (await asyncio.to_thread(assets)).get(name)
    if asset is None:
        raise NotFound("the page has no such file")
    headers = {**HEADERS, "ETag": asset.etag}
    known = request.headers.get("if-none-match")
    if known is not None and etag_matches(known, asset.etag, weak=True):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers=headers, media_type=asset.media_type)
