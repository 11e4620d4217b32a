"""`HEAD` and `PATCH` on an upload: where it stands, and going on (resumable, IETF draft)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from app import resumable
from app.bodies import announced_digest, check_body_headers
from app.context import Services, ServicesDep, Tenant, UploadId
from app.headers import parse_boolean, parse_count, parse_digest
from app.problems import documented
from app.resumable import Append
from rankpress.errors import BadRequest, NotFound, PayloadTooLarge, TooManyRequests
from rankpress.schemas.upload import Upload
from rankpress.service import ids, partials, uploads
from rankpress.service.partials import PartialUpload

router = APIRouter(prefix="/v1/uploads/{upload_id}", tags=["uploads"])
PARTIAL = "application/partial-upload"
INTEGER = {"schema": {"type": "integer", "minimum": 0}}
BOOLEAN = {"schema": {"type": "string", "enum": ["?0", "?1"]}}
PLACE = {
    "Upload-Offset": {"description": "Bytes that are stored", **INTEGER},
    "Upload-Complete": {"description": "?1 once the upload is complete", **BOOLEAN},
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file's bytes from Upload-Offset on",
        "content": {PARTIAL: {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [
        {"name": "Upload-Offset", "in": "header", "required": True, **INTEGER},
        {"name": "Upload-Complete", "in": "header", "required": True, **BOOLEAN},
        {"name": "Upload-Length", "in": "header", "required": False, **INTEGER},
        {
            "name": "Content-Digest",
            "in": "header",
            "required": False,
            "description": "SHA-256 of this request's bytes (RFC 9530), checked when sent",
            "schema": {"type": "string"},
        },
    ],
}


async def begin(
    request: Request,
    services: Services,
    tenant: str,
    filename: str | None,
    digest: bytes | None,
) -> Response:
    """Creates a resumable upload, with the first bytes if the body has any."""
    settings = services.settings
    size = _declared_size(request, services)
    age = timedelta(hours=settings.partial_upload_hours)
    count = len(await asyncio.to_thread(partials.sweep, services.store, tenant, age))
    if count >= settings.max_partial_uploads:
        raise TooManyRequests(
            f"{count} uploads are not complete, the most that one caller may have; "
            "complete or delete one",
            headers={"Retry-After": "60"},
        )
    partial = PartialUpload(
        id=ids.new_id(),
        filename=filename,
        size_bytes=size,
        sha256=None if digest is None else digest.hex(),
        created_at=datetime.now(UTC),
    )
    await asyncio.to_thread(partials.save, services.store, tenant, partial)
    first = Append(offset=0, complete=False)
    try:
        async with resumable.alone(services, tenant, partial.id) as transfer:
            end = await resumable.append(
                services, tenant, partial, first, request.stream(), transfer
            )
    except ClientDisconnect:
        # The caller never learned where to go on.
        await asyncio.to_thread(uploads.delete, services.store, tenant, partial.id)
        raise
    assert isinstance(end, int)
    headers = {"Location": f"/v1/uploads/{partial.id}", **_place(services, end, complete=False)}
    return Response(status_code=201, headers=headers)


@router.head(
    "",
    operation_id="get_upload_offset",
    summary="How far a resumable upload is",
    status_code=204,
    response_class=Response,
    responses={204: {"headers": PLACE}, **documented(404)},
)
async def get_upload_offset(upload_id: UploadId, services: ServicesDep, tenant: Tenant) -> Response:
    """A request that is still appending is stopped first, so that the answer stays true."""
    async with resumable.alone(services, tenant, upload_id):
        return Response(
            status_code=204, headers=await asyncio.to_thread(_where, services, tenant, upload_id)
        )


def _where(services: Services, tenant: str, upload_id: str) -> dict[str, str]:
    try:
        upload = uploads.load(services.store, tenant, upload_id)
    except NotFound:
        partial = partials.load(services.store, tenant, upload_id)
        offset = partials.offset(services.store, tenant, upload_id)
        place, size = _place(services, offset, complete=False), partial.size_bytes
    else:
        place, size = _place(services, upload.size_bytes, complete=True), upload.size_bytes
    return place if size is None else {**place, "Upload-Length": str(size)}


@router.patch(
    "",
    operation_id="append_to_upload",
    summary="Go on with a resumable upload",
    response_model=Upload,
    responses={
        200: {"description": "The upload is complete", "headers": PLACE},
        204: {"description": "The bytes are stored; more are to come", "headers": PLACE},
        **documented(400, 404, 408, 409, 413, 415, 507),
    },
    openapi_extra=BODY,
)
async def append_to_upload(
    upload_id: UploadId, request: Request, response: Response, services: ServicesDep, tenant: Tenant
) -> Any:
    """`Upload-Offset` must be what is stored: 409 tells the true one. A request that is cut keeps
    what came; `HEAD` tells how far that is. `Upload-Complete: ?1` ends the file with this body."""
    check_body_headers(request, services, PARTIAL)
    headers = request.headers
    offset = parse_count("Upload-Offset", headers.get("upload-offset"))
    complete = parse_boolean("Upload-Complete", headers.get("upload-complete"))
    if offset is None or complete is None:
        raise BadRequest("PATCH needs the headers Upload-Offset and Upload-Complete")
    wanted = Append(
        offset=offset,
        complete=complete,
        content_sha256=parse_digest("Content-Digest", headers.get("content-digest")),
        repr_sha256=announced_digest(request, "Repr-Digest"),
    )
    async with resumable.alone(services, tenant, upload_id) as transfer:
        partial = await asyncio.to_thread(_open, services, tenant, upload_id, request)
        end = await resumable.append(services, tenant, partial, wanted, request.stream(), transfer)
    if isinstance(end, int):
        return Response(status_code=204, headers=_place(services, end, complete=False))
    response.headers["Upload-Complete"] = "?1"
    response.headers["Upload-Offset"] = str(end.size_bytes)
    return end


def _open(services: Services, tenant: str, upload_id: str, request: Request) -> PartialUpload:
    """The upload to append to, with its length once that is known; saving it keeps it young."""
    try:
        partial = partials.load(services.store, tenant, upload_id)
    except NotFound:
        done = uploads.load(services.store, tenant, upload_id)
        raise BadRequest(
            "the upload is complete; nothing can be appended",
            headers={"Upload-Complete": "?1", "Upload-Offset": str(done.size_bytes)},
        ) from None
    size = _declared_size(request, services)
    if None not in (size, partial.size_bytes) and size != partial.size_bytes:
        raise BadRequest(f"Upload-Length was {partial.size_bytes} before; now it is {size}")
    partial = partial.model_copy(update={"size_bytes": partial.size_bytes or size})
    partials.save(services.store, tenant, partial)
    return partial


async def stop(services: Services, tenant: str, upload_id: str) -> None:
    """Ends a request that is appending, before the upload is deleted."""
    async with resumable.alone(services, tenant, upload_id):
        return


def _declared_size(request: Request, services: Services) -> int | None:
    size = parse_count("Upload-Length", request.headers.get("upload-length"))
    limit = services.settings.max_upload_bytes
    if size is not None and size > limit:
        raise PayloadTooLarge(f"the file may have {limit} bytes at most; {size} announced")
    return size


def _place(services: Services, offset: int, *, complete: bool) -> dict[str, str]:
    settings = services.settings
    limits = (
        f"max-size={settings.max_upload_bytes}, max-age={int(settings.partial_upload_hours * 3600)}"
    )
    return {
        "Upload-Offset": str(offset),
        "Upload-Complete": "?1" if complete else "?0",
        **({} if complete else {"Upload-Limit": limits}),
    }
