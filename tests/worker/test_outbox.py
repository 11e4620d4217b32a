"""Every end of a job is found, also when the clock was set in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rankpress.schemas.request import JobRequest
from rankpress.service.engine import Engine, migrate
from rankpress.service.settings import Settings
from rankpress.service.spec import JobSpec
from worker.webhooks.outbox import Outbox

T = "tenant"
DAY_MS = 86_400_000
HOOK = {"url": "https://example.org/hook", "secret": "whsec_" + "c2VjcmV0" * 4}


class Database:
    """The worker's handle, as far as the outbox uses it: the rows are real, and what is enqueued
    is noted."""

    def __init__(self, engine: Engine) -> None:
        self.begun: list[str] = []
        self.list_workflows = engine._client.list_workflows

    def enqueue_workflow(
        self, queue: str, workflow: Any, tenant: str, job_id: str, *rest: int
    ) -> None:
        self.begun.append(job_id)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    settings = Settings(data_dir=tmp_path)
    migrate(settings)
    opened = Engine(settings)
    yield opened
    opened.close()


@pytest.fixture
def database(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Database:
    found = Database(engine)
    monkeypatch.setattr("worker.webhooks.outbox.DBOS", found)
    return found


def end(engine: Engine, job_id: str, *, off_ms: int) -> None:
    """A job that ends by a clock which is wrong by so much."""
    request = JobRequest.model_validate({"model": "m", "threshold": 0.5, "webhook": HOOK})
    engine.submit(JobSpec(tenant=T, job_id=job_id, request=request, body_sha256="0"))
    table = engine._client._sys_db.tables.workflow_status
    values = {"status": "SUCCESS", "completed_at": int(time.time() * 1000) + off_ms}
    with engine._client._sys_db.engine.begin() as connection:
        connection.execute(
            sa.update(table).where(table.c.workflow_uuid == f"{T}:{job_id}").values(values)
        )


async def workflow(tenant: str, job_id: str, created_ms: int, attempt: int) -> dict[str, Any]:
    raise AssertionError("only its name is needed")


@pytest.mark.parametrize("off_ms", [DAY_MS, -DAY_MS, 0])
def test_the_jobs_that_end_after_the_clock_was_set_right(
    engine: Engine, database: Database, off_ms: int
) -> None:
    outbox = Outbox(workflow)
    end(engine, "wrong", off_ms=off_ms)
    assert outbox.sweep() == 1
    assert outbox.sweep() == 0, "each once"
    for number in range(2):
        end(engine, f"right-{number}", off_ms=0)
        assert outbox.sweep() == 1
    assert outbox.sweep() == 0
    assert database.begun == ["wrong", "right-0", "right-1"]
