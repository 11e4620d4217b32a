"""The data folder, the job database and the store, by the service's own settings."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rankpress.cli.doctor.check import Check, ok, skipped, warning, wrong
from rankpress.cli.text import size
from rankpress.errors import InsufficientStorage, Unavailable

if TYPE_CHECKING:
    from rankpress.service.settings import Settings

LOW_BYTES = 2 * 1024**3
SERVE = "`rankpress serve` makes it"


def checks(settings: Settings) -> Iterator[Check]:
    yield data_folder(settings.data_dir)
    yield database(settings)
    yield store(settings)


def data_folder(path: Path) -> Check:
    """Whether this user can write there, and how much room is left."""
    there = next(p for p in (path, *path.parents) if p.is_dir())
    user = os.getuid() if hasattr(os, "getuid") else "this user"
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return wrong(
            "data folder",
            f"{there} cannot be written by user {user} ({error.strerror})",
            "give it to that user, or choose another with --data-dir",
        )
    room = shutil.disk_usage(there).free
    made = "" if there == path else f"; not there yet, {SERVE}"
    detail = f"{path}, {size(room)} free{made}"
    if room < LOW_BYTES:
        return warning("data folder", detail, "a job needs room for its model two to three times")
    return ok("data folder", detail)


def database(settings: Settings) -> Check:
    import sqlalchemy as sa

    from rankpress.service.engine import Engine

    path = settings.sqlite_path
    if path is not None and not path.is_file():
        return skipped("database", f"no {path.name} in the data folder yet; {SERVE}")
    kind = "SQLite" if path is not None else sa.make_url(settings.database_url).get_backend_name()
    try:
        if path is not None:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        else:
            engine = sa.create_engine(_driver(settings.database_url))
            with engine.connect():
                pass
            engine.dispose()
    except (sqlite3.Error, sa.exc.SQLAlchemyError):
        where = "the file in the data folder" if path is not None else "RANKPRESS_DATABASE_URL"
        return wrong("database", f"{kind} cannot be opened", f"check {where}")
    try:
        opened = Engine(settings)
    except Unavailable:
        return wrong("database", f"{kind} is not migrated", "start the API once: it migrates")
    try:
        opened.check()
    except Unavailable:
        return wrong("database", f"{kind} is not migrated", "start the API once: it migrates")
    finally:
        opened.close()
    return ok("database", f"{kind}, reachable and migrated")


def _driver(url: str) -> str:
    """psycopg 3 is the driver that the service installs."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def store(settings: Settings) -> Check:
    from rankpress.service.store import Store

    where = settings.store_url.split("?")[0]
    scheme = where.split("://")[0]
    if scheme == "file" and not Path(where.removeprefix("file://")).is_dir():
        return skipped("store", f"its folder is not there yet; {SERVE}")
    shown = where if scheme == "file" else f"{scheme}://..."
    try:
        opened = Store(settings.store_url)
        opened.check()
    except InsufficientStorage:
        return wrong("store", f"{shown} has no room", "free some, or move RANKPRESS_STORE_URL")
    except (Unavailable, OSError, ValueError):
        return wrong(
            "store",
            f"{shown} does not take a small object",
            "check RANKPRESS_STORE_URL, and its credentials or the folder's owner",
        )
    return ok("store", f"{shown} writes, reads and deletes")
