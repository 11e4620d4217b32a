"""`rankpress inspect`: what is in a file, and what compression would do with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from rankpress import views
from rankpress.cli import tables, trying
from rankpress.cli.frontier import numbers
from rankpress.cli.options import DEFAULT_URL, ApiKey, Json, Url, connect
from rankpress.cli.progress import Bars
from rankpress.cli.text import plain, size
from rankpress.formats import FileFacts, inspect_file, read_manifest
from rankpress.names import Reason, Rule
from rankpress.schemas.manifest import Manifest
from rankpress.schemas.upload import TensorInfo


def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint, or a file that was compressed here.")],
    thresholds: Annotated[
        str | None,
        typer.Option(
            "--threshold", "-t", help="What the service would do at tau: 0.9, or 0.5,0.8,0.9."
        ),
    ] = None,
    rule: Annotated[
        Rule, typer.Option("--rule", help="How ranks would be chosen, with --threshold.")
    ] = Rule.ENTROPY,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show a file's tensors and the rank below which factors would be smaller. Reads the header
    alone and needs no service; with --threshold, the service computes the ranks, and keeps
    nothing."""
    with file.open("rb") as opened:
        facts = inspect_file(opened, file.stat().st_size)
    if thresholds is None:
        manifest = read_manifest(file)
        if as_json:
            tables.print_json(_json(file, facts, manifest))
        else:
            _print(file, facts, manifest)
        return
    given = numbers(thresholds, "--threshold") or []
    bars = Bars()
    with connect(url, api_key) as client, bars:
        reports = trying.reports(client, file, given, rule, watch=bars.watchers())
    if as_json:
        tables.print_json([tables.as_json(report) for report in reports])
        return
    out = tables.console()
    for report in reports:
        tables.print_report(out, report)


def _rows(facts: FileFacts) -> list[tuple[TensorInfo, views.View | None, Reason | None]]:
    """Each tensor with the view that the rules are defined on, and why there is none."""
    found = []
    for tensor in facts.tensors or ():
        reason = views.reason_against(tensor.name, tensor.dtype, tensor.shape)
        candidates = () if reason else views.candidate_views(tensor.name, tensor.shape)
        found.append((tensor, candidates[0] if candidates else None, reason))
    return found


def _json(file: Path, facts: FileFacts, manifest: Manifest | None) -> dict[str, object]:
    return {
        "file": str(file),
        "size_bytes": file.stat().st_size,
        "format": facts.format,
        "weights_path": facts.weights_path,
        "candidates": list(facts.candidates),
        "tensors": [
            {
                **tensor.model_dump(mode="json"),
                "kind": view.kind if view else None,
                "m": view.m if view else None,
                "n": view.n if view else None,
                "matrices": view.count if view else None,
                "full_rank": view.full_rank if view else None,
                "break_even_rank": view.break_even_rank if view else None,
                "reason": reason,
            }
            for tensor, view, reason in _rows(facts)
        ],
        "manifest": tables.as_json(manifest) if manifest else None,
        "notes": list(facts.notes),
    }


def _print(file: Path, facts: FileFacts, manifest: Manifest | None) -> None:
    out = tables.console()
    where = f", weights at {plain(facts.weights_path)}" if facts.weights_path else ""
    title = f"{plain(file.name)}: {facts.format}, {size(file.stat().st_size)}{where}"
    table = Table(title=Text(title))
    table.add_column("tensor", overflow="fold")
    for name in ("dtype", "shape", "matrix", "full rank", "break-even"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("passes through because")
    for tensor, view, reason in _rows(facts):
        shape = " x ".join(map(str, tensor.shape)) or "scalar"
        cells = ("", "", "")
        if view is not None:
            times = f"{view.count} of " if view.count > 1 else ""
            matrix = f"{times}{view.m} x {view.n}"
            cells = (matrix, str(view.full_rank), str(view.break_even_rank))
        table.add_row(Text(plain(tensor.name)), tensor.dtype, shape, *cells, reason or "")
    out.print(table)
    if facts.tensors is None and facts.candidates:
        out.print(Text(f"several sets of weights: {plain(', '.join(facts.candidates))}"))
    if manifest is not None:
        out.print(_manifest(manifest))
    for note in facts.notes:
        out.print(Text(f"note: {plain(note)}"))


def _manifest(manifest: Manifest) -> Table:
    table = Table("layer", "shape", "rank", "rule", "factors", title="Compressed here")
    for layer in manifest.layers:
        rule = layer.rule if layer.threshold is None else f"{layer.rule} {layer.threshold:g}"
        table.add_row(
            Text(plain(layer.name)),
            " x ".join(map(str, layer.shape)),
            str(layer.rank),
            rule,
            Text(plain(f"{layer.left} @ {layer.right}")),
        )
    return table
