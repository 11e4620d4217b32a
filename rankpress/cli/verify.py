"""`rankpress verify`: a compressed file against its original, without the service."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from rankpress.cli import tables
from rankpress.cli.options import Json
from rankpress.cli.problems import PROBLEM, Failed
from rankpress.cli.text import plain
from rankpress.client.compressing import model_files
from rankpress.schemas.report import RankReport

if TYPE_CHECKING:
    from rankpress.loading.verifying import Verification


def verify(
    file: Annotated[Path, typer.Argument(help="The compressed file.")],
    against: Annotated[Path, typer.Option("--against", help="The original, as it was uploaded.")],
    report: Annotated[
        Path | None,
        typer.Option("--report", help="The job's report as JSON: its numbers and checksums."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute a file's certificate: how far each layer is from its original, and from what is
    possible at its rank; that all other tensors are the same. Needs torch, and no service."""
    try:
        from rankpress.loading.verifying import verify as verified
    except ImportError as error:
        raise Failed("verify needs torch: pip install 'rankpress[torch]'") from error
    told = None if report is None else _report(report)
    try:
        files = model_files(against)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--against") from error
    found = verified(file, against, files, told)
    if as_json:
        tables.print_json({**dataclasses.asdict(found), "ok": found.ok})
    else:
        _print(found)
    if not found.ok:
        raise typer.Exit(PROBLEM)


def _report(path: Path) -> RankReport:
    """What `rankpress report --json` printed, or `rankpress compress --json`."""
    try:
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and "report" in document:
            document = document["report"]
        return RankReport.model_validate(document)
    except (ValueError, ValidationError) as error:
        raise typer.BadParameter("is no report as JSON", param_hint="--report") from error


def _print(found: Verification) -> None:
    out = tables.console()
    table = Table("layer", "rank", title="||W - left right|| / ||W||, and the least possible")
    for name in ("Frobenius", "least", "2-norm", "least"):
        table.add_column(name, justify="right")
    for layer in found.layers:
        errors = (
            layer.relative_error,
            layer.optimal_relative_error,
            layer.spectral_error,
            layer.optimal_spectral_error,
        )
        table.add_row(Text(plain(layer.name)), str(layer.rank), *(f"{e:.4g}" for e in errors))
    out.print(table)
    out.print(f"{found.unchanged} other tensors are the original's, bit for bit", markup=False)
    for link in found.links:
        out.print(Text(plain(link)), soft_wrap=True)
    for note in found.notes:
        out.print(Text(f"note: {plain(note)}"), soft_wrap=True)
    for problem in found.problems:
        out.print(Text(f"wrong: {plain(problem)}"), soft_wrap=True)
    out.print("verified" if found.ok else "not verified", markup=False)
