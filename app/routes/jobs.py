"""`/v1/jobs`: look, list, cancel, delete."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import WithJsonSchema
from starlette.background import BackgroundTask

from app import paging, waiting
from app.context import JobId, Services, ServicesDep, Tenant
from app.headers import parse_wait
from app.presentation import job_of
from app.problems import documented
from rankpress.errors import Conflict
from rankpress.names import State
from rankpress.schemas.job import Job, JobPage
from rankpress.schemas.webhook import DeliveryPage
from rankpress.service import keys, uploads
from rankpress.service.records import Record

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
ORPHAN_SECONDS = 5.0


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs, newest first",
    responses=documented(422),
)
async def list_jobs(
    services: ServicesDep,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs a page")] = 20,
    cursor: Annotated[
        str | None, Query(max_length=200, description="The page before's next_cursor")
    ] = None,
    state: Annotated[State | None, Query(description="Jobs of this state alone")] = None,
    label: Annotated[
        list[Annotated[str, WithJsonSchema({"type": "string", "pattern": paging.LABEL})]] | None,
        Query(
            description="key:value; given several times, a job must carry all of them. A page "
            "may then hold fewer jobs than asked for: next_cursor alone says where the end is",
            max_length=32,
            examples=[["run:42"]],
        ),
    ] = None,
) -> JobPage:
    place = None if cursor is None else paging.decode_cursor(cursor)
    labels = paging.parse_labels(label or [])

    def read() -> JobPage:
        page = paging.page(
            services.engine, tenant, limit=limit, cursor=place, state=state, labels=labels
        )
        items = tuple(job_of(services.engine, record) for record in page.records)
        return JobPage(items=items, next_cursor=page.next_cursor)

    return await asyncio.to_thread(read)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="Look at a job",
    responses=documented(404),
)
async def get_job(
    job_id: JobId,
    request: Request,
    response: Response,
    services: ServicesDep,
    tenant: Tenant,
    prefer: Annotated[
        str | None, Header(description="wait=20 holds the answer until the job ends (RFC 7240)")
    ] = None,
) -> Job:
    seconds = parse_wait(prefer)
    if seconds is None:
        record = await waiting.fetch(services, tenant, job_id)
    else:
        granted = min(seconds, services.settings.max_wait_seconds)
        record = await waiting.until_ended(services, tenant, job_id, granted, request)
        response.headers["Preference-Applied"] = f"wait={granted:g}"
    return await asyncio.to_thread(job_of, services.engine, record)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    status_code=202,
    responses=documented(404, 409),
)
async def cancel_job(job_id: JobId, services: ServicesDep, tenant: Tenant) -> Job:
    """A running job's compute ends within two seconds."""
    record = await waiting.fetch(services, tenant, job_id)
    if not record.state.terminal:
        await asyncio.to_thread(services.engine.cancel, tenant, job_id)
        after = await waiting.fetch(services, tenant, job_id)
        if after.state in (State.CANCELED, State.QUEUED, State.RUNNING):
            return await asyncio.to_thread(job_of, services.engine, after)
        record = after  # it ended first
    raise Conflict(f"the job has ended already: it is {record.state}")


@router.get(
    "/{job_id}/deliveries",
    operation_id="list_job_deliveries",
    summary="How the job's webhook was told",
    responses=documented(404),
)
async def list_job_deliveries(job_id: JobId, services: ServicesDep, tenant: Tenant) -> DeliveryPage:
    """The attempts so far, the first one first; none for a job without a webhook."""
    record = await waiting.fetch(services, tenant, job_id)
    return DeliveryPage(items=await asyncio.to_thread(services.engine.deliveries, record))


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Delete a job and what it stored",
    status_code=204,
    response_class=Response,
    responses=documented(404),
)
async def delete_job(job_id: JobId, services: ServicesDep, tenant: Tenant) -> Response:
    """A job that has not ended is canceled first. The uploads that a one-shot submission brought
    along go with it; uploads made by themselves stay."""
    record = await waiting.fetch(services, tenant, job_id)
    await asyncio.to_thread(_delete, services, tenant, record)
    response = Response(status_code=204)
    if record.state is State.RUNNING:
        # Its compute may write one more object before the cancel reaches it.
        response.background = BackgroundTask(_sweep, services, tenant, job_id)
    return response


def _delete(services: Services, tenant: str, record: Record) -> None:
    job_id = record.spec.job_id
    if not record.state.terminal:
        services.engine.cancel(tenant, job_id)
    services.engine.delete(tenant, job_id)
    services.store.delete_prefix(keys.job_prefix(tenant, job_id))
    for upload_id in record.spec.owned_uploads:
        uploads.delete(services.store, tenant, upload_id)


async def _sweep(services: Services, tenant: str, job_id: str) -> None:
    await asyncio.sleep(ORPHAN_SECONDS)
    await asyncio.to_thread(services.store.delete_prefix, keys.job_prefix(tenant, job_id))
