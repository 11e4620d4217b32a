"""The job database: made ready, and its failures as ours."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import sqlalchemy as sa
import structlog
from dbos import DBOS
from dbos import error as dbos_error

from rankpress.errors import Unavailable
from rankpress.service.settings import Settings

log = structlog.get_logger(__name__)


def migrate(settings: Settings) -> None:
    """Creates or updates the database's tables. Done before the API starts: the client never
    migrates. An SQLite file is put into WAL mode, so that readers do not wait for the writer."""
    if (path := settings.sqlite_path) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    with mapped():
        DBOS.migrate(settings.database_url)


def migrate_when_ready(settings: Settings, seconds: float = 60.0) -> None:
    """The same at a start: a database that starts with us may take a while. Raises `Unavailable`
    when it does not answer within `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            return migrate(settings)
        except Unavailable as error:
            if time.monotonic() > end:
                raise
            log.warning("database_not_ready", detail=error.detail)
            time.sleep(1.0)


@contextmanager
def mapped() -> Iterator[None]:
    """Every failure to reach the database as `Unavailable`."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, dbos_error.DBOSException, sqlite3.Error) as error:
        if isinstance(error, dbos_error.DBOSWorkflowIDInUseError):
            raise
        raise Unavailable("the job database did not answer; try again in a moment") from error
