"""`POST /v1/jobs`: a job by JSON, or by a form that brings its files along."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from app import oneshot, strict_json, submission
from app.context import Services, ServicesDep, Tenant
from app.headers import parse_idempotency_key
from app.openapi import links_by_id
from app.presentation import job_of
from app.problems import documented
from rankpress.errors import UnsupportedMediaType
from rankpress.schemas.job import Job
from rankpress.schemas.request import JobRequest
from rankpress.service import uploads
from rankpress.service.records import Record
from rankpress.service.spec import JobSpec

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
MULTIPART = "multipart/form-data"
BINARY = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/JobRequest"},
                "examples": {
                    "threshold": {
                        "summary": "Keep 90 % of the spectral entropy of each layer",
                        "value": {"model": "0f8c2d", "threshold": 0.9},
                    },
                    "evaluated": {
                        "summary": "With accuracy before and after",
                        "value": {
                            "model": "0f8c2d",
                            "threshold": 0.9,
                            "evaluation": {"validation": "77aa01"},
                            "labels": {"run": "42"},
                        },
                    },
                },
            },
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["model"],
                    "additionalProperties": False,
                    "properties": {
                        "model": {**BINARY, "description": "The checkpoint"},
                        "threshold": {
                            "type": "string",
                            "description": "A number in (0, 1], required by the threshold rules",
                            "example": "0.9",
                        },
                        "validation": {**BINARY, "description": "inputs and targets"},
                        "options": {
                            "type": "string",
                            "description": "The rest of JobRequest, as JSON text",
                            "example": '{"rule": "energy"}',
                        },
                    },
                }
            },
        },
    }
}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "headers": {
            "Location": {"description": "The job", "schema": {"type": "string"}},
            "Retry-After": {"description": "Seconds", "schema": {"type": "integer"}},
        },
        "links": links_by_id(
            "job_id",
            "get_job",
            "cancel_job",
            "delete_job",
            "stream_job_events",
            "get_job_report",
            "get_job_spectrum",
            "get_job_weights",
            "head_job_weights",
        ),
    }
}


@router.post(
    "",
    operation_id="submit_job",
    summary="Submit a job",
    status_code=202,
    response_model=Job,
    responses={**ACCEPTED, **documented(400, 408, 409, 413, 415, 422, 429, 507)},
    openapi_extra=BODY,
)
async def submit_job(
    request: Request,
    response: Response,
    services: ServicesDep,
    tenant: Tenant,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Repeating a submission with the same key gives the same job",
            json_schema_extra={"pattern": "^[!-~]{1,255}$"},
        ),
    ] = None,
) -> Job:
    """JSON naming uploads by id, or a form that brings the files along."""
    key = parse_idempotency_key(idempotency_key)
    content_type = request.headers.get("content-type", "")
    media_type = content_type.split(";")[0].strip().lower()
    if media_type not in ("application/json", MULTIPART):
        raise UnsupportedMediaType(
            f"a job comes as application/json or {MULTIPART}; found {media_type[:80]!r}"
        )
    with submission.only_once(services, tenant, key):
        job_id = submission.job_id_for(tenant, key)
        services.tracing.mark(job_id=job_id)
        if media_type == MULTIPART:
            record = await _from_form(request, services, tenant, job_id, content_type)
        else:
            record = await _from_json(request, services, tenant, job_id)
    response.headers["Location"] = f"/v1/jobs/{record.spec.job_id}"
    response.headers["Retry-After"] = "1"
    return await asyncio.to_thread(job_of, services.engine, record)


async def _from_json(request: Request, services: Services, tenant: str, job_id: str) -> Record:
    document = strict_json.parse(await request.body())
    wanted = submission.validate(document)
    body = submission.fingerprint({"json": document})
    if (known := await submission.repeated(services, tenant, job_id, body)) is not None:
        return known
    return await submission.enqueue(
        services,
        _spec(request, services, tenant=tenant, job_id=job_id, request=wanted, body_sha256=body),
    )


async def _from_form(
    request: Request, services: Services, tenant: str, job_id: str, content_type: str
) -> Record:
    """The uploads of a form that makes no job of its own are deleted again."""
    form = oneshot.Form()
    kept = False
    try:
        await oneshot.receive(services, tenant, content_type, request.stream(), form)
        wanted = submission.validate(form.document())
        body = submission.fingerprint({"form": form.fingerprint()})
        known = await submission.repeated(services, tenant, job_id, body)
        if known is not None:
            return known
        owned = tuple(upload.id for upload in form.uploads.values())
        spec = _spec(
            request,
            services,
            tenant=tenant,
            job_id=job_id,
            request=wanted,
            body_sha256=body,
            owned_uploads=owned,
        )
        record = await submission.enqueue(services, spec)
        kept = record.spec.owned_uploads == owned
        return record
    finally:
        if not kept:
            for upload in form.uploads.values():
                await asyncio.to_thread(uploads.delete, services.store, tenant, upload.id)


def _spec(http: Request, services: Services, *, request: JobRequest, **fields: Any) -> JobSpec:
    return JobSpec(
        request=request,
        request_id=http.scope.get("request_id"),
        trace=services.tracing.here(),
        **fields,
    )
