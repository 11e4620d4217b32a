"""What a succeeded job left: its report and its weights."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app import documents, waiting
from app.context import JobId, Services, ServicesDep, Tenant
from app.downloads import Download, may_redirect, respond
from app.problems import documented
from rankpress.errors import NotFound, NotReady
from rankpress.names import State
from rankpress.reporting import frontier_csv
from rankpress.schemas.report import RankReport
from rankpress.schemas.request import MAX_RESULTS
from rankpress.schemas.spectrum import SpectrumDocument
from rankpress.service import keys
from rankpress.service.records import Record
from rankpress.service.store import Missing

Result = Annotated[
    int,
    Query(
        ge=0, lt=MAX_RESULTS, description="Which result, from 0, of a job with several thresholds"
    ),
]
router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["artifacts"])
STRING = {"schema": {"type": "string"}}
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
VALIDATORS = {
    "ETag": {"description": "The file's SHA-256, in quotes: a strong validator", **STRING},
    "Repr-Digest": {"description": "The file's SHA-256 (RFC 9530)", **STRING},
    "Accept-Ranges": {"description": "bytes", **STRING},
}
WEIGHTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file", "content": BYTES, "headers": VALIDATORS},
    206: {"description": "The range asked for", "content": BYTES, "headers": VALIDATORS},
    304: {"description": "The caller has it already (If-None-Match)"},
    307: {
        "description": "To a signed URL of the store, valid for a while, where the operator has "
        "chosen so; not with If-Range or Want-Repr-Digest. HEAD tells the digest",
        "headers": {"Location": {"description": "Send no API key there", **STRING}},
    },
    **documented(404, 409, 412, 416),
}
CONDITIONS = [
    {"name": name, "in": "header", "required": False, "description": text, **STRING}
    for name, text in {
        "Range": "bytes=first-last; one range. Several are answered with the whole file",
        "If-Range": "The ETag that the range is meant for; the whole file if it changed",
        "If-None-Match": "304 if it names the ETag",
        "If-Match": "412 unless it names the ETag",
        "Want-Repr-Digest": "Any: the digest comes with the bytes, from the service itself",
    }.items()
]
DOCUMENT_CONDITIONS = [c for c in CONDITIONS if c["name"] in ("If-None-Match", "If-Match")]
UNCHANGED = {"description": "The caller has it already (If-None-Match)"}
REPORT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The report",
        "content": {name: STRING for name in documents.REPORT_TYPES if name != documents.JSON},
    },
    304: UNCHANGED,
    **documented(404, 406, 409, 412),
}


async def succeeded(services: Services, tenant: str, job_id: str, what: str) -> Record:
    """Raises `NotFound`, and `NotReady` that says why there is nothing."""
    record = await waiting.fetch(services, tenant, job_id)
    if record.state is State.SUCCEEDED:
        return record
    if record.state.terminal:
        raise NotReady(f"the job is {record.state}: it has no {what}")
    raise NotReady(
        f"the job is {record.state}; its {what} will be there when it has succeeded",
        headers={"Retry-After": "1"},
    )


@router.get(
    "/report",
    operation_id="get_job_report",
    summary="The report: what was done with each tensor, and how the model does",
    response_model=RankReport,
    responses=REPORT,
    openapi_extra={"parameters": DOCUMENT_CONDITIONS},
)
async def get_job_report(
    job_id: JobId, request: Request, services: ServicesDep, tenant: Tenant, result: Result = 0
) -> Response:
    """JSON, or by `Accept` a row per tensor as CSV, a page as HTML, a summary as Markdown."""
    media_type = documents.report_type(request)
    _check_result(await succeeded(services, tenant, job_id, "report"), result)
    report = await _object(services, keys.job_report(tenant, job_id, result), "report")
    spectrum = None
    if media_type == documents.HTML:
        spectrum = await _stored(services, keys.job_spectrum(tenant, job_id))
    body = await asyncio.to_thread(documents.render, media_type, report, spectrum)
    return documents.respond(request, body, media_type, f"report-{job_id}.csv")


@router.get(
    "/spectrum",
    operation_id="get_job_spectrum",
    summary="Singular values per layer: what if the threshold were another?",
    response_model=SpectrumDocument,
    responses={304: UNCHANGED, **documented(404, 409, 412)},
    openapi_extra={"parameters": DOCUMENT_CONDITIONS},
)
async def get_job_spectrum(
    job_id: JobId, request: Request, services: ServicesDep, tenant: Tenant
) -> Response:
    """With these the rank of each layer at any threshold follows without another job."""
    await succeeded(services, tenant, job_id, "spectrum")
    body = await _object(services, keys.job_spectrum(tenant, job_id), "spectrum")
    return documents.respond(request, body, documents.JSON, "")


async def _stored(services: Services, key: str) -> bytes | None:
    try:
        return await asyncio.to_thread(services.store.get_bytes, key)
    except Missing:
        return None


async def _object(services: Services, key: str, what: str) -> bytes:
    if (found := await _stored(services, key)) is None:
        raise NotFound(f"the job's {what} is no longer stored")
    return found


@router.get(
    "/weights",
    operation_id="get_job_weights",
    summary="Download the compressed weights",
    response_class=Response,
    responses=WEIGHTS,
    openapi_extra={"parameters": CONDITIONS},
)
async def get_job_weights(
    job_id: JobId,
    request: Request,
    services: ServicesDep,
    tenant: Tenant,
    result: Result = 0,
) -> Response:
    """Conditional and ranged after RFC 9110, so that a download goes on where it was cut."""
    return await _weights(request, services, tenant, job_id, result)


@router.head(
    "/weights",
    operation_id="head_job_weights",
    summary="Size and digest of the compressed weights",
    response_class=Response,
    responses={
        200: {"description": "As for GET, without the body", "headers": VALIDATORS},
        **documented(404, 409),
    },
)
async def head_job_weights(
    job_id: JobId, request: Request, services: ServicesDep, tenant: Tenant, result: Result = 0
) -> Response:
    return await _weights(request, services, tenant, job_id, result)


@router.get(
    "/frontier",
    operation_id="get_job_frontier",
    summary="Size against quality of every result, as a table",
    response_class=Response,
    responses={
        200: {"description": "A row for each result", "content": {documents.CSV: STRING}},
        304: UNCHANGED,
        **documented(404, 409, 412),
    },
    openapi_extra={"parameters": DOCUMENT_CONDITIONS},
)
async def get_job_frontier(
    job_id: JobId, request: Request, services: ServicesDep, tenant: Tenant
) -> Response:
    """CSV. The same points are in the report's `frontier` as JSON."""
    await succeeded(services, tenant, job_id, "frontier")
    report = await _object(services, keys.job_report(tenant, job_id), "report")
    body = frontier_csv(RankReport.model_validate_json(report)).encode()
    return documents.respond(request, body, documents.CSV, f"frontier-{job_id}.csv")


def _check_result(record: Record, result: int) -> None:
    """Raises `NotFound` for a result that the job does not have."""
    if result >= (there := record.spec.request.results):
        raise NotFound(f"the job has {there} result{'s' if there > 1 else ''}, counted from 0")


async def _weights(
    request: Request,
    services: Services,
    tenant: str,
    job_id: str,
    result: int,
) -> Response:
    record = await succeeded(services, tenant, job_id, "weights")
    _check_result(record, result)
    output = record.output or {}
    weights = output["results"][result]["weights"] if "results" in output else output["weights"]
    key = keys.job_weights(tenant, job_id, result)
    if not await asyncio.to_thread(services.store.exists, key):
        raise NotFound("the job's weights are no longer stored")
    location = None
    if services.settings.redirect_downloads and may_redirect(request):
        seconds = services.settings.redirect_seconds
        location = await asyncio.to_thread(services.store.signed_url, key, seconds)
    return respond(
        request,
        services.store,
        Download(
            key=key,
            size_bytes=weights["size_bytes"],
            sha256=weights["sha256"],
            filename=weights["filename"],
        ),
        location,
    )
