"""Reports and jobs as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rankpress.cli.text import number, plain, share
from rankpress.names import Action
from rankpress.reporting.words import HEADLINE_METRICS
from rankpress.schemas.job import Job
from rankpress.schemas.report import EvaluationReport, FrontierPoint, LayerReport, RankReport

# Of the metrics, in the order in which they say most; so many at once.
SHOWN = (*HEADLINE_METRICS, "macro_f1", "top5_accuracy", "agreement", "relative_output_error")
MOST_SHOWN = 3
PIPE_WIDTH = 160  # columns when the output is no terminal: names stay whole


def console() -> Console:
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def as_json(model: BaseModel) -> object:
    return model.model_dump(mode="json")


def print_report(out: Console, report: RankReport) -> None:
    out.print(_layers(report))
    out.print(_totals(report))
    if report.evaluation is not None:
        out.print(_evaluation(report.evaluation))
    for note in report.notes:
        out.print(Text(f"note: {plain(note)}"))


def print_jobs(out: Console, jobs: Iterable[Job]) -> None:
    table = Table("job", "state", "stage", "done", "rule", "threshold", "created")
    for job in jobs:
        done = f"{job.progress.done}/{job.progress.total}" if job.progress.total else ""
        table.add_row(
            Text(plain(job.id)),
            job.state,
            job.stage or "",
            done,
            job.request.rule,
            _thresholds(job.request.threshold),
            job.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        )
    out.print(table)


def _thresholds(asked: float | tuple[float, ...] | None) -> str:
    if asked is None:
        return ""
    return ", ".join(f"{t:g}" for t in (asked if isinstance(asked, tuple) else (asked,)))


def print_frontier(out: Console, report: RankReport, points: Iterable[FrontierPoint]) -> None:
    """A row for each result: what was asked for, how large it is, how it does by the metrics that
    say most; JSON and CSV have them all."""
    points = tuple(points)
    measured = dict.fromkeys(m.name for point in points for m in point.metrics)
    metrics = tuple(name for name in SHOWN if name in measured)[:MOST_SHOWN]
    table = Table("result", "asked for", "parameters", "share", "file, bytes", *metrics)
    for column in table.columns[2:]:
        column.justify = "right"
    dense = {m.name: m.dense for point in points for m in point.metrics}
    before = report.parameters_before
    values = (number(dense[name]) for name in metrics)
    table.add_row("dense", "", f"{before:,}", "", f"{report.bytes_before:,}", *values)
    for point in points:
        found = {m.name: m.compressed for m in point.metrics}
        table.add_row(
            str(point.index),
            _asked(point),
            f"{point.parameters_after:,}",
            share(point.parameters_after, before),
            f"{point.bytes_after:,}",
            *(number(found.get(name)) for name in metrics),
        )
    out.print(table)


def _asked(point: FrontierPoint) -> str:
    if point.budget is not None:
        given = point.budget.model_dump(exclude_none=True)
        return ", ".join(f"{value:g} of the {name}" for name, value in given.items())
    return f"{point.rule} {number(point.threshold)}"


def _layers(report: RankReport) -> Table:
    table = Table(title=f"Ranks ({report.rule}, threshold {number(report.threshold)})")
    table.add_column("tensor", overflow="fold")
    for name in ("shape", "rank", "parameters", "share", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what was done")
    for layer in report.layers:
        table.add_row(
            Text(plain(layer.name)),
            " x ".join(map(str, layer.shape)) or "scalar",
            _rank(layer),
            f"{layer.parameters_after:,}",
            share(layer.parameters_after, layer.parameters_before),
            number(layer.relative_error, 3) if layer.action is Action.FACTORISED else "",
            layer.action if layer.reason is None else f"{layer.action}: {layer.reason}",
        )
    return table


def _rank(layer: LayerReport) -> str:
    if layer.rank is None or layer.full_rank is None:
        return ""
    return f"{layer.rank} of {layer.full_rank}"


def _totals(report: RankReport) -> Table:
    table = Table("", "before", "after", "share")
    for column in table.columns[1:]:
        column.justify = "right"
    before, after = report.parameters_before, report.parameters_after
    table.add_row("parameters", f"{before:,}", f"{after:,}", share(after, before))
    for name, before, after in (
        ("tensors", report.tensor_bytes_before, report.tensor_bytes_after),
        ("file", report.bytes_before, report.bytes_after),
    ):
        table.add_row(f"{name}, bytes", f"{before:,}", f"{after:,}", share(after, before))
    flops = report.flops_per_sample_before, report.flops_per_sample_after
    if flops[0] is not None and flops[1] is not None:
        table.add_row("FLOPs/sample", f"{flops[0]:,}", f"{flops[1]:,}", share(flops[1], flops[0]))
    return table


def _evaluation(report: EvaluationReport) -> Table:
    title = f"Evaluation on {report.samples:,} samples, {plain(report.architecture)}"
    table = Table("metric", "dense", "compressed", "difference", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for metric in report.metrics:
        difference = "-" if metric.difference is None else f"{metric.difference:+.4g}"
        if metric.interval is not None:
            interval = metric.interval
            difference += f" [{interval.low:+.4g}, {interval.high:+.4g}]"
        table.add_row(
            Text(plain(metric.name)), number(metric.dense), number(metric.compressed), difference
        )
    for latency in report.latency:
        table.add_row(
            f"seconds a batch of {latency.batch_size}",
            number(latency.dense_seconds, 3),
            number(latency.compressed_seconds, 3),
            f"{latency.speedup:.2f}x as fast",
        )
    return table


__all__ = ["as_json", "console", "print_frontier", "print_jobs", "print_json", "print_report"]
