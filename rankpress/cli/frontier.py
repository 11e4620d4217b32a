"""`rankpress frontier`: several sizes of one model side by side, from one job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rankpress.cli import tables
from rankpress.cli.compress import check_template, parse_options
from rankpress.cli.options import DEFAULT_URL, ApiKey, Json, Url, connect
from rankpress.cli.progress import Bars
from rankpress.cli.text import plain
from rankpress.names import Rule
from rankpress.reporting import frontier_csv


def frontier(
    model: Annotated[
        Path, typer.Argument(help="A checkpoint: .safetensors, .pt, ..., or a folder of shards.")
    ],
    thresholds: Annotated[
        str | None,
        typer.Option("--thresholds", "-t", help="tau in (0, 1], several: 0.5,0.8,0.9."),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option("--budgets", "-b", help="Shares of the parameters to keep: 0.2,0.4."),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option("--validation", help="Samples to score the models on: inputs, targets."),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option("--template", help="The architecture: a file of rankpress.export_template."),
    ] = None,
    rule: Annotated[
        Rule | None, typer.Option("--rule", help="Of the thresholds; entropy by default.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder that receives a file for each."),
    ] = None,
    options: Annotated[
        str | None,
        typer.Option("--options", help="More fields of the request as JSON, or @FILE."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds to wait for the job.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="A row for each.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Compare several thresholds or budgets: one decomposition, a size and a quality for each."""
    if (thresholds is None) == (budgets is None):
        raise typer.BadParameter("give --thresholds or --budgets")
    if as_json and as_csv:
        raise typer.BadParameter("give one of --json and --csv")
    fields: dict[str, Any] = parse_options(options)
    check_template(template, validation)
    if rule is not None and thresholds is not None:
        fields["rule"] = rule
    bars = Bars()
    try:
        with connect(url, api_key) as client, bars:
            done = client.frontier(
                model,
                thresholds=numbers(thresholds, "--thresholds"),
                budgets=numbers(budgets, "--budgets"),
                validation=validation,
                template=template,
                folder=folder,
                timeout=timeout,
                watch=bars.watchers(),
                **fields,
            )
    except KeyboardInterrupt:
        if bars.job_id is not None:
            sys.stderr.write(
                f"\njob {bars.job_id} goes on; to end it: rankpress cancel {bars.job_id}\n"
            )
        raise
    if as_json:
        tables.print_json(
            {
                "job": tables.as_json(done.job),
                "frontier": [tables.as_json(point) for point in done.points],
                "paths": [str(path) for path in done.paths],
            }
        )
        return
    if as_csv:
        typer.echo(frontier_csv(done.report), nl=False)
        return
    out = tables.console()
    tables.print_frontier(out, done.report, done.points)
    out.print(f"job   {done.job.id}", markup=False)
    for path in done.paths:
        out.print(f"file  {plain(str(path))}", markup=False, soft_wrap=True)


def numbers(text: str | None, option: str) -> list[float] | None:
    """The numbers of `0.5,0.8`. Raises typer.BadParameter."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no list of numbers such as 0.5,0.8,0.9", param_hint=option
        ) from error
