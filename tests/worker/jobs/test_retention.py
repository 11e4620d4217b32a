"""What is old goes, what is needed stays, and the space comes back."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rankpress.names import FileFormat
from rankpress.schemas.request import JobRequest
from rankpress.schemas.upload import Upload
from rankpress.service import keys, partials, uploads
from rankpress.service.engine import Engine, migrate
from rankpress.service.lease import leases, scratch_leases
from rankpress.service.settings import Settings
from rankpress.service.spec import JobSpec
from rankpress.service.store import Store
from worker.jobs.retention import GRACE_SECONDS, Retention

NOW = datetime.now(UTC)
GRACE = timedelta(seconds=GRACE_SECONDS + 1)
DAYS = 7
T = "tenant"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings(data_dir=tmp_path, retention_days=DAYS)
    migrate(found)
    return found


@pytest.fixture
def engine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    found = Engine(settings)
    # The worker's own handle of the same database.
    monkeypatch.setattr("worker.jobs.retention.DBOS", found._client)
    yield found
    found.close()


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store_url)


class Later(Retention):
    """Time passes on both clocks; `set_by` moves the wall clock alone."""

    passed = timedelta()
    set_by = timedelta()

    def round(self, *, after: timedelta = timedelta()) -> None:
        self.passed += after
        self.sweep(NOW + self.passed + self.set_by)


@pytest.fixture
def retention(settings: Settings, store: Store, engine: Engine) -> Later:
    places = leases(settings), scratch_leases(settings)
    made = Later(settings, store, *places, clock=lambda: made.passed.total_seconds())
    return made


def upload(store: Store, upload_id: str, *, days: float) -> None:
    """Bytes and record of an upload that is so many days old."""
    store.put_bytes(keys.upload_data(T, upload_id), b"x" * 100)
    record = Upload(
        id=upload_id,
        filename=None,
        size_bytes=100,
        sha256="0" * 64,
        format=FileFormat.SAFETENSORS,
        tensors=None,
        created_at=NOW - timedelta(days=days),
    )
    uploads.commit(store, T, record)


def job(
    engine: Engine, store: Store, job_id: str, status: str, *, days: float, model: str = "m"
) -> None:
    """A job with its results; `days` since it ended."""
    request = JobRequest.model_validate({"model": model, "threshold": 0.5})
    engine.submit(JobSpec(tenant=T, job_id=job_id, request=request, body_sha256="0" * 64))
    ended = int((NOW - timedelta(days=days)).timestamp() * 1000)
    table = engine._client._sys_db.tables.workflow_status
    closed = status not in ("ENQUEUED", "PENDING")
    values: dict[str, Any] = {
        "status": status, "created_at": ended, "completed_at": ended if closed else None
    }  # fmt: skip
    with engine._client._sys_db.engine.begin() as connection:
        connection.execute(
            sa.update(table).where(table.c.workflow_uuid == f"{T}:{job_id}").values(values)
        )
    store.put_bytes(keys.job_weights(T, job_id), b"w")
    store.put_bytes(keys.job_report(T, job_id), b"{}")


def stored(store: Store) -> set[str]:
    return {info.key for kind in ("uploads", "jobs", "partials") for info in store.list(kind)}


@pytest.mark.parametrize(
    "status", ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
)
def test_an_ended_job_goes_record_first(
    retention: Later, engine: Engine, store: Store, status: str
) -> None:
    """An open download is not cut: the bytes go an hour after the record."""
    job(engine, store, "old", status, days=DAYS + 1)
    job(engine, store, "new", status, days=DAYS - 1)
    retention.round()
    assert engine.get(T, "old") is None
    assert engine.get(T, "new") is not None
    assert keys.job_weights(T, "old") in stored(store)
    retention.round(after=GRACE)
    assert not [key for key in stored(store) if "/old/" in key]
    assert keys.job_weights(T, "new") in stored(store)


@pytest.mark.parametrize("status", ["ENQUEUED", "PENDING"])
def test_an_open_job_keeps_what_it_needs(
    retention: Later, engine: Engine, store: Store, status: str
) -> None:
    upload(store, "needed", days=DAYS + 30)
    upload(store, "unused", days=DAYS + 30)
    upload(store, "recent", days=1)
    job(engine, store, "open", status, days=DAYS + 30, model="needed")
    retention.round()
    retention.round(after=GRACE)
    assert engine.get(T, "open") is not None
    left = stored(store)
    assert {keys.upload_data(T, "needed"), keys.upload_record(T, "needed")} <= left
    assert keys.upload_data(T, "recent") in left
    assert keys.job_weights(T, "open") in left
    assert not [key for key in left if "/unused/" in key]


def test_zero_days_keep_for_ever(settings: Settings, engine: Engine, store: Store) -> None:
    upload(store, "u", days=1000)
    job(engine, store, "j", "SUCCESS", days=1000)
    for_ever = settings.model_copy(update={"retention_days": 0.0})
    Retention(for_ever, store, leases(settings), scratch_leases(settings)).sweep(NOW)
    assert engine.get(T, "j") is not None
    assert keys.upload_record(T, "u") in stored(store)


def test_bytes_without_a_record_go_after_the_grace(retention: Later, store: Store) -> None:
    """An upload whose request died between its bytes and its record."""
    store.put_bytes(keys.upload_data(T, "cut"), b"x")
    retention.round()
    assert keys.upload_data(T, "cut") in stored(store)
    retention.round(after=GRACE / 2)
    assert keys.upload_data(T, "cut") in stored(store)
    retention.round(after=GRACE)
    assert stored(store) == set()


def test_an_orphan_that_got_its_record_stays(retention: Later, store: Store) -> None:
    store.put_bytes(keys.upload_data(T, "u"), b"x")
    retention.round()
    upload(store, "u", days=0)
    retention.round(after=GRACE)
    assert keys.upload_data(T, "u") in stored(store)


def test_a_resumable_upload_under_way_stays(retention: Later, store: Store) -> None:
    partial = partials.PartialUpload(
        id="p", filename=None, size_bytes=10, sha256=None, created_at=NOW
    )
    partials.save(store, T, partial)
    store.put_bytes(keys.upload_part(T, "p", 0), b"x")
    retention.round()
    retention.round(after=GRACE)
    assert keys.upload_part(T, "p", 0) in stored(store)


def test_parts_of_ended_jobs(retention: Later, engine: Engine, store: Store) -> None:
    """A worker was still writing them when the job was cancelled."""
    job(engine, store, "open", "PENDING", days=1)
    job(engine, store, "ended", "CANCELLED", days=1)
    for name in ("open", "ended"):
        store.put_bytes(keys.job_part(T, name, 0), b"x")
    retention.round()
    assert keys.job_part(T, "ended", 0) in stored(store)
    retention.round(after=2 * GRACE)
    assert keys.job_part(T, "ended", 0) not in stored(store)
    assert keys.job_part(T, "open", 0) in stored(store)


def test_temporary_files_of_killed_puts(retention: Later, store: Store, settings: Settings) -> None:
    folder = settings.data_dir / "store" / "uploads" / T / "u"
    folder.mkdir(parents=True)
    old, new = folder / "data#1", folder / "data#2"
    for path in (old, new):
        path.write_bytes(b"x")
    before = (NOW - GRACE).timestamp() - 60
    os.utime(old, (before, before))
    retention.round()
    assert old.exists(), "it may be that it is still being written"
    retention.round(after=timedelta(minutes=10))
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1)])
def test_a_clock_that_is_set_takes_nothing_that_is_needed(
    retention: Later, engine: Engine, store: Store, settings: Settings, jump: timedelta
) -> None:
    """Under a running job, a download of a job that has just expired, and a put."""
    upload(store, "needed", days=DAYS - 0.5)
    job(engine, store, "open", "PENDING", days=DAYS - 0.5, model="needed")
    store.put_bytes(keys.job_part(T, "open", 0), b"x")
    store.put_bytes(keys.job_weights(T, "downloaded"), b"w")
    put = settings.data_dir / "store" / "jobs" / T / "open" / "weights#1"
    put.write_bytes(b"x")
    written = (NOW - timedelta(minutes=1)).timestamp()
    os.utime(put, (written, written))
    retention.round()
    retention.set_by = jump
    before = stored(store)
    retention.round(after=timedelta(minutes=4))
    assert engine.get(T, "open") is not None
    assert stored(store) == before
    assert put.exists()
    with put.open("ab") as file:
        file.write(b"x")
    os.utime(put, (written, written))
    retention.round(after=timedelta(minutes=4))
    assert put.exists(), "it has grown"


def test_scratch(retention: Later, engine: Engine, store: Store, settings: Settings) -> None:
    """Of ended jobs and of dead workers; not of open jobs, nor of living workers beside us, even
    when the database has cut them off and their lease is free for a moment."""
    job(engine, store, "open", "PENDING", days=0)
    beside = scratch_leases(settings)
    assert beside.acquire("alive")
    with leases(settings).if_free("alive") as free:
        assert free
    kept, gone = [], []
    for worker, name, stays in (
        (settings.worker_name, "open", True),
        (settings.worker_name, "ended", False),
        ("alive", "ended", True),
        ("dead", "open", False),
    ):
        folder = settings.scratch_dir / worker / T / name
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"x")
        (kept if stays else gone).append(folder)
    retention.delete_scratch()
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)


def test_the_database_shrinks(
    retention: Later, engine: Engine, store: Store, settings: Settings
) -> None:
    path = settings.sqlite_path
    assert path is not None
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE filler (x BLOB)")
        connection.executemany(
            "INSERT INTO filler VALUES (?)", [(bytes(4096),) for _ in range(4000)]
        )
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.stat().st_size
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE filler")
    retention.round()
    assert path.stat().st_size < before / 2
    assert engine.backlog().queued == 0  # and is a database still


def test_a_busy_database_is_left_alone(retention: Later, settings: Settings) -> None:
    path = settings.sqlite_path
    assert path is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("CREATE TABLE t (x)")
        retention._compact()
        writer.execute("COMMIT")


def test_one_worker_at_a_time(settings: Settings) -> None:
    one, other = leases(settings), leases(settings)
    with one.task("retention") as mine, other.task("retention") as theirs:
        assert mine
        assert not theirs
