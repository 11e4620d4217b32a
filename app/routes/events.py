"""`/v1/jobs/{id}/events`: what happens to a job, as it happens."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.responses import Response, StreamingResponse

from app import events, waiting
from app.context import JobId, ServicesDep, Tenant
from app.problems import documented
from rankpress.service.events import Place

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])
EXAMPLE = """retry: 2000

event: state
data: {"state":"running","stage":"factorise","progress":{"done":1,"total":3}}

event: layer
data: {"name":"0.weight","action":"factorised","rank":14, ...}
id: 3-0

event: done
data: {"id":"...","state":"succeeded", ...}
id: end

"""
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`state`, `layer`, `evaluation` and `done`",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
    },
    204: {"description": "The reader has had `done`; nothing more will come"},
    **documented(404),
}


@router.get(
    "/events",
    operation_id="stream_job_events",
    summary="Follow a job",
    response_class=Response,
    responses=RESPONSES,
)
async def stream_job_events(
    job_id: JobId,
    services: ServicesDep,
    tenant: Tenant,
    last_event_id: Annotated[
        str | None, Header(description="The last id that was read: the rest follows")
    ] = None,
) -> Response:
    """Server-sent events. `layer` and `evaluation` have ids that are stored with the job: a
    connection that breaks goes on after `Last-Event-ID`. `state` is a snapshot without an id."""
    await waiting.fetch(services, tenant, job_id)
    if last_event_id == events.END:
        return Response(status_code=204)  # tells an EventSource not to come back
    after = None if last_event_id is None else Place.decode(last_event_id)
    return StreamingResponse(
        events.stream(services, tenant, job_id, after),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )
