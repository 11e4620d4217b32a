"""A row per result of a job, as CSV: size against quality, for a plot or a table."""

from __future__ import annotations

import csv
import io

from rankpress.reporting.csv_table import guarded
from rankpress.reporting.points import point_of
from rankpress.schemas.report import FrontierPoint, RankReport

HEAD = (
    "result",
    "rule",
    "threshold",
    "budget_parameters",
    "budget_bytes",
    "budget_flops",
    "parameters_after",
    "parameters_share",
    "bytes_after",
    "output_sha256",
    "samples",
    "verdict",
)


def frontier_csv(report: RankReport) -> str:
    """Columns: `HEAD`, then for each metric its value, dense value, difference and interval, for
    each latency the two medians in seconds, and the rank of each tensor that was tried (empty:
    dense). A job with one result has one row.
    """
    points = report.frontier or (point_of(report),)
    metrics = [metric.name for metric in points[0].metrics]
    batches = [latency.batch_size for latency in points[0].latency]
    layers = list(points[0].ranks)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(
        [
            *HEAD,
            *(f"{name}{end}" for name in metrics for end in _ENDS),
            *(f"{side}_seconds_batch_{b}" for b in batches for side in ("dense", "compressed")),
            *(guarded(f"rank {name}") for name in layers),
        ]
    )
    for point in points:
        writer.writerow([_cell(value) for value in _row(point, report, metrics, batches, layers)])
    return out.getvalue()


_ENDS = ("", "_dense", "_difference", "_low", "_high")


def _row(
    point: FrontierPoint,
    report: RankReport,
    metrics: list[str],
    batches: list[int],
    layers: list[str],
) -> list[object]:
    budget = point.budget
    row: list[object] = [
        point.index,
        point.rule,
        point.threshold,
        budget.parameters if budget else None,
        budget.bytes if budget else None,
        budget.flops if budget else None,
        point.parameters_after,
        point.parameters_after / max(report.parameters_before, 1),
        point.bytes_after,
        point.output_sha256,
        point.samples,
        point.verdict,
    ]
    by_name = {metric.name: metric for metric in point.metrics}
    for name in metrics:
        metric = by_name[name]
        interval = metric.interval
        row += [metric.compressed, metric.dense, metric.difference]
        row += [interval.low if interval else None, interval.high if interval else None]
    by_batch = {latency.batch_size: latency for latency in point.latency}
    for batch in batches:
        latency = by_batch.get(batch)
        row += [latency.dense_seconds, latency.compressed_seconds] if latency else [None, None]
    return [*row, *(point.ranks.get(name) for name in layers)]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
