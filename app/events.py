"""Server-sent events of one job, for `EventSource` and `curl -N`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from app.context import Services
from app.presentation import job_of
from rankpress.names import Stage, State
from rankpress.schemas.base import Frozen
from rankpress.schemas.job import Job, Progress
from rankpress.service.engine import STEPS
from rankpress.service.events import LayerEvent, Place, events_of

END = "end"
POLL_SECONDS = 0.25
KEEPALIVE_SECONDS = 15.0
RETRY_MILLISECONDS = 2000


class StateEvent(Frozen):
    """Where the job stands now. A snapshot: it has no id, and a reader who comes back gets the
    one of that moment."""

    state: State
    stage: Stage | None
    progress: Progress


async def stream(
    services: Services, tenant: str, job_id: str, after: Place | None
) -> AsyncIterator[bytes]:
    """`state` whenever it changes, `layer` and `evaluation` after the place given, `done` at the
    end. Ends without `done` when the job is deleted or the
    service goes down: a reader comes back by itself."""
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    shown: StateEvent | None = None
    read, said_at = 0, time.monotonic()
    while True:
        # The job before its steps: when it has ended, the steps that follow are all there are.
        job = await asyncio.to_thread(_look, services, tenant, job_id)
        if job is None:
            return
        steps = await asyncio.to_thread(services.engine.steps_after, tenant, job_id, read)
        read += len(steps)
        pieces = []
        if (now := _state(job)) != shown:
            shown = now
            pieces.append(frame("state", now))
        for event in events_of(steps):
            if after is None or event.place > after:
                name, data = (
                    ("layer", event.layer)
                    if isinstance(event, LayerEvent)
                    else ("evaluation", event.evaluation)
                )
                pieces.append(frame(name, data, event.place.encode()))
        more = len(steps) == STEPS
        if job.state.terminal and not more:
            pieces.append(frame("done", job, END))
        if pieces:
            yield b"".join(pieces)
            said_at = time.monotonic()
        if more:
            continue
        if job.state.terminal or services.closing.is_set():
            return
        if time.monotonic() - said_at > KEEPALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            said_at = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)


def _look(services: Services, tenant: str, job_id: str) -> Job | None:
    record = services.engine.get(tenant, job_id)
    return None if record is None else job_of(services.engine, record)


def _state(job: Job) -> StateEvent:
    return StateEvent(state=job.state, stage=job.stage, progress=job.progress)


def frame(name: str, data: Frozen, id: str | None = None) -> bytes:
    return format_sse_event(data_str=data.model_dump_json(), event=name, id=id)
