"""The command: every check in turn, a table or JSON, and the exit code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from rankpress.cli import tables
from rankpress.cli.doctor.check import Check, Found, skipped, wrong
from rankpress.cli.options import DEFAULT_URL, ApiKey, Json
from rankpress.cli.problems import PROBLEM
from rankpress.cli.serve import DATA, Data

MARKS = {
    Found.OK: ("ok", "green"),
    Found.WARNING: ("warning", "yellow"),
    Found.WRONG: ("WRONG", "bold red"),
    Found.SKIPPED: ("-", "dim"),
}


def doctor(
    url: Annotated[
        str | None,
        typer.Option("--url", envvar="RANKPRESS_URL", help=f"The service; {DEFAULT_URL}."),
    ] = None,
    api_key: ApiKey = None,
    data_dir: Data = DATA,
    run_job: Annotated[
        bool, typer.Option("--job", help="Also run a tiny job, and delete it again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the installation and say what is wrong. Exit code 1 when something is."""
    checks = []
    for check in every(url, api_key, data_dir, run_job=run_job):
        checks.append(check)
    bad = [c for c in checks if c.found is Found.WRONG]
    if as_json:
        tables.print_json({"ok": not bad, "checks": [asdict(c) for c in checks]})
    else:
        _print(checks)
    if bad:
        raise typer.Exit(PROBLEM)


def every(
    url: str | None, api_key: str | None, data_dir: Path, *, run_job: bool
) -> Iterator[Check]:
    from rankpress.cli.doctor import installation, service, storage, trial

    yield installation.python()
    yield installation.package()
    yield from installation.extras()
    try:
        from rankpress.service.settings import Settings

        settings = Settings(data_dir=data_dir)
    except ModuleNotFoundError:
        why = "the extra server is not installed: this is a client's machine"
        yield installation.torch("auto")
        yield skipped("settings", why)
    except ValidationError as error:
        names = sorted({f"RANKPRESS_{str(e['loc'][0]).upper()}" for e in error.errors()})
        yield wrong("settings", f"cannot be used: {', '.join(names)}", "see docs/configuration.md")
    else:
        yield installation.torch(settings.device)
        yield from storage.checks(settings)
    answered = service.answers(url or DEFAULT_URL, api_key, asked_for=url is not None or run_job)
    yield from answered
    is_here = answered[0].found is Found.OK and (url or DEFAULT_URL) == DEFAULT_URL
    yield service.worker(data_dir.absolute(), needed=is_here)
    if run_job:
        yield trial.job(url or DEFAULT_URL, api_key)


def _print(checks: list[Check]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        text = check.detail if not check.advice else f"{check.detail}\n  -> {check.advice}"
        mark, style = MARKS[check.found]
        table.add_row(Text(mark, style=style), check.name, Text(text))
    tables.console().print(table)
