"""`Prefer: wait`: the answer is held until the job ends or the time is over."""

from __future__ import annotations

import asyncio
import time

from fastapi import Request

from app.context import Services
from rankpress.errors import NotFound
from rankpress.service.records import Record

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 0.5


async def fetch(services: Services, tenant: str, job_id: str) -> Record:
    record = await asyncio.to_thread(services.engine.get, tenant, job_id)
    if record is None:
        raise NotFound(f"no job {job_id!r}")
    return record


async def until_ended(
    services: Services, tenant: str, job_id: str, seconds: float, request: Request
) -> Record:
    """The pauses grow, so that many who wait long cost little."""
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        record = await fetch(services, tenant, job_id)
        left = deadline - time.monotonic()
        if record.state.terminal or left <= 0 or services.closing.is_set():
            return record
        if await request.is_disconnected():
            return record
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.2, LONGEST_PAUSE_SECONDS)
