"""Which workers are alive: each holds a lock on its name for as long as it lives.

The lock is the operating system's (`flock`: one machine, with SQLite) or PostgreSQL's (an advisory
lock of a session), so a dead worker's lease ends with it. Whoever can take another name's lock
knows that its owner is gone, or, with PostgreSQL, cut off: see `patience_seconds`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from rankpress.service.postgres_lease import PostgresLeases
from rankpress.service.settings import Settings


class Leases(Protocol):
    """Locks by worker name, and by task for what one worker at a time does."""

    # How long a name must have been free before its owner counts as dead. Its owner has ended
    # itself by then, if it could not prove in the meantime that it still holds it.
    patience_seconds: float

    def acquire(self, name: str) -> bool:
        """Takes the lock for the life of this process; False when somebody else has it."""
        ...

    def if_free(self, name: str) -> contextlib.AbstractContextManager[bool]:
        """Holds a worker's lock within the block when nobody else does; says whether it does."""
        ...

    def task(self, name: str) -> contextlib.AbstractContextManager[bool]:
        """The same for a task."""
        ...

    def count_alive(self) -> int:
        """Workers that hold their lock now."""
        ...


def leases(settings: Settings) -> Leases:
    if (path := settings.sqlite_path) is not None:
        return FileLeases(path.parent)  # beside the database, so that who shares it shares them
    return PostgresLeases(settings.database_url)


def scratch_leases(settings: Settings) -> Leases:
    """Of the scratch folders on this disk. The worker's lease will not do for them: PostgreSQL's
    can be lost for seconds by a worker that lives, and somebody else would remove its files."""
    return FileLeases(settings.scratch_leases_dir)


class FileLeases:
    """Locks on files of one machine. A file stays when its worker is gone: it is the name."""

    patience_seconds = 0.0  # the lock ends with the process and at no other time

    def __init__(self, folder: Path) -> None:
        self._workers = folder / "workers"
        self._tasks = folder / "tasks"
        for place in (self._workers, self._tasks):
            place.mkdir(parents=True, exist_ok=True)

    def acquire(self, name: str) -> bool:
        self._held = _try(self._workers / _file_name(name))  # kept open: closing it gives it back
        return self._held is not None

    def if_free(self, name: str) -> contextlib.AbstractContextManager[bool]:
        return _held(self._workers / _file_name(name))

    def task(self, name: str) -> contextlib.AbstractContextManager[bool]:
        return _held(self._tasks / _file_name(name))

    def count_alive(self) -> int:
        return sum(_is_locked(path) for path in self._workers.glob("*.lock"))


def _file_name(name: str) -> str:
    """A name from the database is not a path."""
    return f"{quote(name, safe='')}.lock"


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    file = _try(path)
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


def _try(path: Path, kind: int = fcntl.LOCK_EX) -> int | None:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _is_locked(path: Path) -> bool:
    # Shared, so that two who look do not see each other.
    if (file := _try(path, fcntl.LOCK_SH)) is None:
        return True
    os.close(file)
    return False
