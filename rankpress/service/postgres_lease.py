"""Leases as advisory locks of PostgreSQL, held by a session.

A session can be cut while its worker lives: the network, a restarted server. Somebody else may then
take the lock, and with it the worker's jobs. So a worker proves every two seconds that it holds
its lock, and ends itself when it could not for `FENCE_SECONDS`; and nobody takes the jobs of a name
that has not been free for longer than that. The supervisor starts the worker again, and its jobs
go on at their unfinished steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import structlog

from rankpress.errors import Unavailable

log = structlog.get_logger(__name__)
PING_SECONDS = 2.0
FENCE_SECONDS = 8.0
PATIENCE_SECONDS = 10.0
EXIT_LEASE_LOST = 75
# First half of an advisory lock's key; the second is the name's hash.
WORKERS, TASKS = 0x52414E4B, 0x52414E54
# The server ends the session of a machine that lost its power, and gives its locks back, within
# 11 s instead of two hours.
SESSION = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
CONNECT: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 2,
    "options": SESSION,
    "keepalives_idle": 2,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 5000,  # milliseconds
    "application_name": "rankpress-lease",
}
Session = psycopg.Connection[tuple[Any, ...]]


def _exit() -> None:
    os._exit(EXIT_LEASE_LOST)


class PostgresLeases:
    """`on_lost` is called when this process may no longer hold the lock that it acquired."""

    patience_seconds = PATIENCE_SECONDS

    def __init__(self, url: str, *, on_lost: Callable[[], None] = _exit) -> None:
        self._url = url.replace("postgresql+psycopg://", "postgresql://")
        self._on_lost = on_lost
        self._proven_at = 0.0
        self._ended = threading.Event()

    def acquire(self, name: str) -> bool:
        session = self._connect()
        asked_at = time.monotonic()
        if not lock(session, WORKERS, name):
            session.close()
            return False
        self._proven_at = asked_at
        threading.Thread(target=self._keep, args=(session, name), daemon=True).start()
        threading.Thread(target=self._fence, args=(name,), daemon=True).start()
        return True

    def if_free(self, name: str) -> contextlib.AbstractContextManager[bool]:
        return self._held(WORKERS, name)

    def task(self, name: str) -> contextlib.AbstractContextManager[bool]:
        return self._held(TASKS, name)

    def count_alive(self) -> int:
        with contextlib.closing(self._connect()) as session:
            row = session.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                " AND objsubid = 2 AND classid::bigint = %s AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())",
                (WORKERS,),
            ).fetchone()
        return int(row[0]) if row else 0

    def end(self) -> None:
        """Stops proving; for tests, since a worker holds its lease until it ends."""
        self._ended.set()

    @contextlib.contextmanager
    def _held(self, kind: int, name: str) -> Iterator[bool]:
        # The session's end gives the lock back.
        with contextlib.closing(self._connect()) as session:
            yield lock(session, kind, name)

    def _connect(self) -> Session:
        try:
            return psycopg.connect(self._url, **CONNECT)
        except psycopg.OperationalError as error:
            raise Unavailable("the job database did not answer") from error

    def _keep(self, session: Session, name: str) -> None:
        held: Session | None = session
        while held is not None and not self._ended.wait(PING_SECONDS):
            asked_at = time.monotonic()
            try:
                held.execute("SELECT 1")
            except psycopg.Error:
                log.warning("lease_session_lost", worker=name)
                held.close()
                held = self._renewed(name)
            else:
                self._proven_at = asked_at
        if held is not None:
            held.close()

    def _renewed(self, name: str) -> Session | None:
        """A new session that holds the lock; tried until the fence falls."""
        while not self._ended.is_set():
            asked_at = time.monotonic()
            with contextlib.suppress(Unavailable, psycopg.Error):
                session = self._connect()
                if lock(session, WORKERS, name):
                    self._proven_at = asked_at
                    log.info("lease_renewed", worker=name)
                    return session
                # Whoever looks whether we live holds it for a moment; a second worker of our
                # name keeps it, and the fence falls.
                session.close()
            self._ended.wait(0.25)
        return None

    def _fence(self, name: str) -> None:
        while not self._ended.wait(0.25):
            if time.monotonic() - self._proven_at > FENCE_SECONDS:
                log.error("lease_lost", worker=name)
                self._ended.set()
                self._on_lost()


def lock(session: Session, kind: int, name: str) -> bool:
    """Tries an advisory lock of this session."""
    row = session.execute(
        "SELECT pg_try_advisory_lock(%s::int, %s::int)", (kind, key_of(name))
    ).fetchone()
    return row is not None and row[0] is True


def key_of(name: str) -> int:
    """32 bits, signed."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big", signed=True)
