"""`rankpress serve`: API and one worker on one folder. `api` and `worker`: one of them alone."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ValidationError

from rankpress.cli import checkout, ports
from rankpress.cli.datadir import DataDir
from rankpress.cli.problems import Failed
from rankpress.cli.supervisor import Supervisor
from rankpress.client import answers

if TYPE_CHECKING:
    from rankpress.service.settings import Settings

Host = Annotated[str, typer.Option("--host", envvar="RANKPRESS_HOST", help="Address to listen on.")]
Port = Annotated[
    int,
    typer.Option("--port", envvar="RANKPRESS_PORT", min=0, max=65535, help="0: any free port."),
]
Data = Annotated[
    Path,
    typer.Option("--data-dir", envvar="RANKPRESS_DATA_DIR", help="Database, store, scratch files."),
]
HOST, PORT, DATA = "127.0.0.1", 8000, Path("rankpress-data")


def serve(
    host: Host = HOST,
    port: Port = PORT,
    data_dir: Data = DATA,
    ready_file: Annotated[
        Path | None,
        typer.Option("--ready-file", help="Write {url, pid} as JSON there once it is ready."),
    ] = None,
    grace: Annotated[
        float, typer.Option("--grace", min=0, help="Seconds for a clean end before it is killed.")
    ] = 30.0,
) -> None:
    """Run the service: API and one worker. Jobs go on where they were after any end."""
    settings = _settings(host=host, port=port, data_dir=data_dir)
    root = checkout.find()
    with DataDir.open(settings.data_dir) as folder:
        port = ports.choose(settings.host, settings.port)
        _migrate(settings)
        environment = {
            "RANKPRESS_DATA_DIR": str(settings.data_dir),
            "RANKPRESS_HOST": settings.host,
            "RANKPRESS_PORT": str(port),
        }
        Supervisor(
            environment=checkout.environment(root) | environment,
            url=ports.url(settings.host, port),
            lock_descriptor=folder.children_descriptor,
            ready_file=ready_file,
            grace_seconds=grace,
        ).run()


def api(host: Host = HOST, port: Port = PORT, data_dir: Data = DATA) -> None:
    """Run the API alone."""
    _become("app", {"HOST": host, "PORT": str(port), "DATA_DIR": str(data_dir.absolute())})


def worker(data_dir: Data = DATA) -> None:
    """Run a worker alone. RANKPRESS_WORKER_NAME must differ among the workers of a database."""
    _become("worker", {"DATA_DIR": str(data_dir.absolute())})


def _become(module: str, settings: dict[str, str]) -> NoReturn:
    """The process itself, so that signals and the exit code are its own."""
    environment = checkout.environment(checkout.find())
    environment |= {f"RANKPRESS_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-P", "-m", module]
    os.execve(command[0], command, environment)  # noqa: S606 - nothing of it is the caller's


def _settings(*, host: str, port: int, data_dir: Path) -> Settings:
    try:
        from rankpress.service.settings import Settings
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    try:
        return Settings(host=host, port=port, data_dir=data_dir)
    except ValidationError as error:
        raise answers.invalid_request(error) from error


def _migrate(settings: Settings) -> None:
    try:
        import sqlalchemy
        from dbos import error as dbos_error

        from rankpress.service.engine import migrate
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    try:
        migrate(settings)
    except (sqlalchemy.exc.SQLAlchemyError, dbos_error.DBOSException, sqlite3.Error) as error:
        raise Failed(
            "the job database cannot be opened; check RANKPRESS_DATABASE_URL, or the folder "
            f"{settings.data_dir}"
        ) from error


def _not_installed(error: ModuleNotFoundError) -> Failed:
    return Failed(
        f"{error.name} is not installed; the service needs its extras: "
        "pip install -e '.[cli,server,worker]' in a checkout"
    )
