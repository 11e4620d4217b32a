"""`rankpress jobs`, `report`, `download`, `cancel`, `delete`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from rankpress.cli import tables
from rankpress.cli.options import DEFAULT_URL, ApiKey, Json, Url, connect
from rankpress.cli.progress import Bars
from rankpress.client import Client
from rankpress.errors import NotFound
from rankpress.names import State
from rankpress.reporting import report_csv, report_html, report_markdown
from rankpress.schemas.spectrum import SpectrumDocument

JobId = Annotated[str, typer.Argument(help="The job's id.")]


def jobs(
    state: Annotated[State | None, typer.Option("--state", help="Only jobs of this state.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Only jobs of this label.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connect(url, api_key) as client:
        pages = client.jobs(state=state, label=label, page_size=min(limit, 100))
        found = list(islice(pages, limit))
    if as_json:
        tables.print_json([tables.as_json(job) for job in found])
    else:
        tables.print_jobs(tables.console(), found)


def report(
    job: JobId,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: Json = False,
    as_html: Annotated[bool, typer.Option("--html", help="One self-contained page.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="A summary for a pull request or a model card.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A row per tensor.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a file instead of stdout.")
    ] = None,
) -> None:
    """Show what a job did: ranks, sizes, accuracy."""
    if as_json + as_html + as_markdown + as_csv > 1:
        raise typer.BadParameter("give one of --json, --html, --markdown and --csv")
    with connect(url, api_key) as client:
        found = client.report(job)
        spectrum = _spectrum(client, job) if as_html else None
    if as_html:
        text = report_html(found, spectrum)
    elif as_markdown:
        text = report_markdown(found)
    elif as_csv:
        text = report_csv(found)
    elif as_json or output is not None:
        text = found.model_dump_json(indent=2) + "\n"
    else:
        tables.print_report(tables.console(), found)
        return
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8", newline="")


def _spectrum(client: Client, job: str) -> SpectrumDocument | None:
    """None when the service no longer has it, or is too old to: the page then says so."""
    try:
        return client.spectrum(job)
    except NotFound:
        return None


def download(
    job: JobId,
    output: Annotated[Path, typer.Argument(help="The file to write.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Download a job's compressed weights, verified by their SHA-256."""
    bars = Bars()
    with connect(url, api_key) as client, bars:
        path = client.download(job, output, progress=bars.download)
    print(path)


def cancel(job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Cancel a queued or running job."""
    with connect(url, api_key) as client:
        print(client.cancel(job).state)


def delete(job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Delete a job and what it stored."""
    with connect(url, api_key) as client:
        client.delete(job)
