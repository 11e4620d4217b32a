"""Jobs of workers that are gone go back to the queue; those of the living stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from rankpress.errors import Unavailable
from rankpress.names import State
from rankpress.schemas.request import JobRequest
from rankpress.service.engine import Engine, migrate
from rankpress.service.lease import Leases, leases
from rankpress.service.postgres_lease import PostgresLeases
from rankpress.service.reaper import Reaper
from rankpress.service.settings import Settings
from rankpress.service.spec import JobSpec


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    url = request.getfixturevalue("postgres_database") if request.param == "postgres" else ""
    found = Settings(data_dir=tmp_path_factory.mktemp("data"), database_url=url)
    migrate(found)
    return found


@pytest.fixture(scope="module")
def opened(settings: Settings) -> Iterator[Engine]:
    found = Engine(settings)
    yield found
    found.close()


@pytest.fixture
def engine(opened: Engine) -> Iterator[Engine]:
    yield opened
    table = opened._client._sys_db.tables.workflow_status
    with opened._client._sys_db.engine.begin() as connection:
        connection.execute(sa.delete(table))


@pytest.fixture
def held(settings: Settings) -> Iterator[Leases]:
    found = leases(settings)
    yield found
    if isinstance(found, PostgresLeases):
        found.end()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostgresLeases, "patience_seconds", 0.0)


def running(engine: Engine, job_id: str, worker: str, **columns: Any) -> None:
    """A job as it stands in the database while `worker` runs it."""
    request = JobRequest.model_validate({"model": "m", "threshold": 0.5})
    spec = JobSpec(tenant="t", job_id=job_id, request=request, body_sha256="0" * 64)
    engine.submit(spec)
    table = engine._client._sys_db.tables.workflow_status
    values = {"status": "PENDING", "executor_id": worker, "owner_xid": "x", **columns}
    with engine._client._sys_db.engine.begin() as connection:
        connection.execute(
            sa.update(table).where(table.c.workflow_uuid == f"t:{job_id}").values(values)
        )


def state(engine: Engine, job_id: str) -> State:
    record = engine.get("t", job_id)
    assert record is not None
    return record.state


def test_the_dead_and_the_living(engine: Engine, settings: Settings, held: Leases) -> None:
    assert held.acquire("alive")
    running(engine, "a", "alive")
    running(engine, "b", "dead")
    running(engine, "c", "never-was-a-worker")
    running(engine, "d", "../odd name")
    Reaper(engine, leases(settings)).sweep()
    assert state(engine, "a") is State.RUNNING
    assert [state(engine, j) for j in "bcd"] == [State.QUEUED] * 3
    assert engine.running_workers() == {"alive"}


def test_own_jobs_are_left_alone(engine: Engine, settings: Settings) -> None:
    running(engine, "a", "me")
    Reaper(engine, leases(settings), own="me").sweep()
    assert state(engine, "a") is State.RUNNING


def test_ended_jobs_are_left_alone(engine: Engine, settings: Settings) -> None:
    running(engine, "a", "dead", status="CANCELLED")
    Reaper(engine, leases(settings)).sweep()
    assert state(engine, "a") is State.CANCELED


def test_patience(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name must have been free for a while, and for as long as the database answered."""
    now = 100.0
    monkeypatch.setattr("rankpress.service.reaper.time.monotonic", lambda: now)
    found = leases(settings)
    found.patience_seconds = 10.0
    reaper = Reaper(engine, found)
    running(engine, "a", "cut-off")
    reaper.sweep()
    now = 109.0
    reaper.sweep()
    assert state(engine, "a") is State.RUNNING
    now = 110.0
    reaper.sweep()
    assert state(engine, "a") is State.QUEUED


def test_a_worker_that_came_back_starts_the_count_anew(
    engine: Engine, settings: Settings, held: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("rankpress.service.reaper.time.monotonic", lambda: now)
    found = leases(settings)
    found.patience_seconds = 10.0
    reaper = Reaper(engine, found)
    running(engine, "a", "returning")
    reaper.sweep()
    assert held.acquire("returning")
    now = 120.0
    reaper.sweep()
    assert state(engine, "a") is State.RUNNING
    assert reaper._free_since == {}


def test_whose_job_it_is(engine: Engine) -> None:
    running(engine, "mine", "me")
    running(engine, "taken", "other")
    running(engine, "waiting", "me", status="ENQUEUED")
    running(engine, "ended", "me", status="CANCELLED")
    elsewhere = {
        job: engine.is_run_elsewhere("t", job, "me")
        for job in ("mine", "taken", "waiting", "ended", "deleted")
    }
    assert elsewhere == {
        "mine": False, "taken": True, "waiting": True, "ended": False, "deleted": False
    }  # fmt: skip


def test_backlog(engine: Engine) -> None:
    assert engine.backlog() == (0, 0, 0.0)
    running(engine, "a", "w")
    running(engine, "b", "w", status="ENQUEUED", created_at=1000)
    running(engine, "c", "w", status="SUCCESS")
    found = engine.backlog()
    assert (found.queued, found.running) == (1, 1)
    assert found.oldest_seconds > 1e8  # since 1970


def test_a_database_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        Engine(Settings(database_url="postgresql://nobody@127.0.0.1:9/none"))
