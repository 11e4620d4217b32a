"""`/v1/uploads`: a file goes in as the raw body, and is described."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from app import quota
from app.bodies import announced_digest, announced_name, check_body_headers
from app.context import Services, ServicesDep, Tenant, UploadId
from app.headers import parse_boolean
from app.openapi import links_by_id
from app.problems import documented
from app.receive import NewUpload
from app.routes import resumption
from rankpress.errors import Conflict, NotFound
from rankpress.names import State
from rankpress.schemas.upload import Upload
from rankpress.service import partials, uploads

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])
OCTETS = "application/octet-stream"
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file's bytes, as they are",
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [
        {
            "name": "Content-Disposition",
            "in": "header",
            "required": False,
            "description": "May name the file: a label, never a path",
            "schema": {"type": "string"},
            "example": 'attachment; filename="model.safetensors"',
        },
        {
            "name": "Repr-Digest",
            "in": "header",
            "required": False,
            "description": "SHA-256 of the file (RFC 9530), checked when sent: "
            "sha-256=:<base64 of the 32 bytes>:",
            "schema": {"type": "string"},
        },
    ],
}
LINKS = links_by_id("upload_id", "get_upload", "get_upload_offset", "delete_upload")
LOCATION = {"Location": {"description": "The new resource", "schema": {"type": "string"}}}


@router.post(
    "",
    operation_id="create_upload",
    summary="Upload a file",
    status_code=201,
    response_model=Upload,
    responses={
        201: {"headers": LOCATION, "links": LINKS},
        **documented(400, 408, 413, 415, 422, 507),
    },
    openapi_extra=BODY,
)
async def create_upload(
    request: Request, response: Response, services: ServicesDep, tenant: Tenant
) -> Any:
    """The body streams to the store while its SHA-256 is computed. The file's header is read, so
    that a file which is no checkpoint is refused here. On any error nothing is kept.

    With `Upload-Complete: ?0` a resumable upload begins: the answer is empty, and PATCH on its
    `Location` brings the rest."""
    check_body_headers(request, services, OCTETS)
    digest = announced_digest(request)
    complete = parse_boolean("Upload-Complete", request.headers.get("upload-complete"))
    if complete is False:
        return await resumption.begin(request, services, tenant, announced_name(request), digest)
    room = await quota.room(services, tenant)
    upload = NewUpload(services, tenant, announced_name(request), room=room)
    try:
        async for chunk in request.stream():
            await upload.write(chunk)
        made = await upload.commit(digest)
    except BaseException:
        await upload.discard()
        raise
    response.headers["Location"] = f"/v1/uploads/{made.id}"
    if complete:
        response.headers["Upload-Complete"] = "?1"
    return made


@router.get(
    "/{upload_id}",
    operation_id="get_upload",
    summary="Describe an upload",
    responses=documented(404),
)
async def get_upload(upload_id: UploadId, services: ServicesDep, tenant: Tenant) -> Upload:
    return await asyncio.to_thread(uploads.load, services.store, tenant, upload_id)


@router.delete(
    "/{upload_id}",
    operation_id="delete_upload",
    summary="Delete an upload",
    status_code=204,
    responses=documented(404, 409),
)
async def delete_upload(upload_id: UploadId, services: ServicesDep, tenant: Tenant) -> None:
    """Refused while a queued or running job needs it. An upload that is not complete ends."""
    await resumption.stop(services, tenant, upload_id)
    await asyncio.to_thread(_delete, services, tenant, upload_id)


def _delete(services: Services, tenant: str, upload_id: str) -> None:
    try:
        uploads.load(services.store, tenant, upload_id)
    except NotFound:
        partials.load(services.store, tenant, upload_id)
    for state in (State.QUEUED, State.RUNNING):
        for record in services.engine.newest_first(tenant, state=state):
            if upload_id in record.spec.request.upload_ids():
                raise Conflict(
                    f"the job {record.spec.job_id} is {state} and needs this upload; "
                    "cancel it first, or wait until it ends"
                )
    uploads.delete(services.store, tenant, upload_id)
