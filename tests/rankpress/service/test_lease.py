"""A lease is held by one, ends with its owner, and a cut session is mended or fences."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from rankpress.errors import Unavailable
from rankpress.service import postgres_lease
from rankpress.service.lease import FileLeases, Leases, leases
from rankpress.service.postgres_lease import PostgresLeases
from rankpress.service.settings import Settings
from tests.end_to_end.processes import ROOT, wait_until

HOLD = """
import sys
from rankpress.service.lease import leases
from rankpress.service.settings import Settings
assert leases(Settings()).acquire(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = request.getfixturevalue("postgres_database") if request.param == "postgres" else ""
    return Settings(data_dir=tmp_path, database_url=url)


@pytest.fixture
def one(settings: Settings) -> Iterator[Leases]:
    found = leases(settings)
    yield found
    end(found)


@pytest.fixture
def other(settings: Settings) -> Iterator[Leases]:
    found = leases(settings)
    yield found
    end(found)


def end(found: Leases) -> None:
    if isinstance(found, PostgresLeases):
        found.end()


def test_one_holder(one: Leases, other: Leases) -> None:
    name = "one-holder"
    assert one.acquire(name)
    assert not other.acquire(name)
    with other.if_free(name) as free:
        assert not free
    assert other.acquire("somebody-else")
    assert one.count_alive() >= 2


def test_looking_takes_nothing_for_longer_than_the_look(one: Leases, other: Leases) -> None:
    with other.if_free("looked-at") as free:
        assert free
        assert not one.acquire("looked-at")
    assert one.acquire("looked-at")


def test_tasks_and_workers_do_not_share_names(one: Leases, other: Leases) -> None:
    """A worker may be called what a task is called."""
    assert one.acquire("retention")
    with other.task("retention") as free:
        assert free
        with one.task("retention") as again:
            assert not again


def test_a_name_from_the_database_is_no_path(one: Leases, tmp_path: Path) -> None:
    with one.if_free("../../outside") as free:
        assert free
    assert not list(tmp_path.parent.glob("outside*"))


def test_a_killed_owner_s_lease_is_free(settings: Settings, one: Leases) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, "mortal"],
        cwd=ROOT,
        env={
            "PATH": "",
            "RANKPRESS_DATA_DIR": str(settings.data_dir),
            "RANKPRESS_DATABASE_URL": settings.database_url,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with one.if_free("mortal") as free:
            assert not free
        owner.kill()

    def is_free() -> bool:
        with one.if_free("mortal") as found:
            return found

    wait_until(is_free, what="the dead owner's lease")


def test_locks_lie_beside_the_database(tmp_path: Path) -> None:
    """Two data folders on one SQLite file share their leases."""
    url = f"sqlite:///{tmp_path / 'shared' / 'jobs.sqlite'}"
    found = [leases(Settings(data_dir=tmp_path / n, database_url=url)) for n in ("a", "b")]
    assert all(isinstance(f, FileLeases) for f in found)
    assert found[0].acquire("worker-1")
    assert not found[1].acquire("worker-1")


@pytest.mark.postgres
def test_a_cut_session_is_mended(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_lease, "PING_SECONDS", 0.05)
    lost = threading.Event()
    held = PostgresLeases(postgres_database, on_lost=lost.set)
    looker = PostgresLeases(postgres_database)
    assert held.acquire("cut")
    for _ in range(3):
        before = _cut(postgres_database)
        assert before == 1

        def is_held() -> bool:
            with looker.if_free("cut") as free:
                return not free

        wait_until(is_held, what="the renewed lease")
    assert not lost.is_set()
    held.end()


@pytest.mark.postgres
def test_who_cannot_prove_its_lease_is_fenced(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name was taken while its session was cut."""
    monkeypatch.setattr(postgres_lease, "PING_SECONDS", 0.05)
    monkeypatch.setattr(postgres_lease, "FENCE_SECONDS", 1.0)
    lost = threading.Event()
    held = PostgresLeases(postgres_database, on_lost=lost.set)
    assert held.acquire("fenced")
    with closing(psycopg.connect(postgres_database, autocommit=True)) as thief:
        # Cut and taken in one statement's time: the lock waits for the session's end.
        _cut(postgres_database)
        thief.execute("SET lock_timeout = '10s'")
        thief.execute(
            "SELECT pg_advisory_lock(%s::int, %s::int)",
            (postgres_lease.WORKERS, postgres_lease.key_of("fenced")),
        )
        if lost.wait(0.0):
            pytest.fail("fenced before its time")
        assert lost.wait(30)


@pytest.mark.postgres
def test_a_machine_without_power_loses_its_session_soon(postgres_database: str) -> None:
    with closing(psycopg.connect(postgres_database, **postgres_lease.CONNECT)) as session:
        row = session.execute(
            "SELECT current_setting('tcp_keepalives_idle')::int"
            " + current_setting('tcp_keepalives_interval')::int"
            " * current_setting('tcp_keepalives_count')::int"
        ).fetchone()
    assert row == (11,)


@pytest.mark.postgres
def test_nobody_takes_jobs_before_their_owner_has_fenced_itself() -> None:
    assert postgres_lease.FENCE_SECONDS < postgres_lease.PATIENCE_SECONDS


def test_no_server() -> None:
    found = PostgresLeases("postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(Unavailable, match="did not answer"):
        found.acquire("x")


def _cut(url: str) -> int:
    """Ends every lease's session that holds its lock; how many there were."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        rows = connection.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND objsubid = 2 AND datname = current_database()"
        ).fetchall()
    return len(rows)
