"""A job's several results side by side: size against quality."""

from __future__ import annotations

from rankpress.reporting import words
from rankpress.schemas.report import FrontierPoint, RankReport

HEAD = ("result", "rule", "parameters", "file", "quality", "verdict")


def rows(report: RankReport) -> list[tuple[str, ...]]:
    """A row a result, in plain text; empty for a job that has one. The result that the report is
    of is marked by a star."""
    return [
        (
            f"{point.index}{' *' if point.index == report.result else ''}",
            _rule(point),
            f"{point.parameters_after:,} "
            f"({words.share(point.parameters_after, report.parameters_before)})",
            words.size(point.bytes_after),
            _quality(point),
            "" if point.verdict is None else words.VERDICTS[point.verdict],
        )
        for point in report.frontier
    ]


def _rule(point: FrontierPoint) -> str:
    text = words.RULES[point.rule]
    if point.threshold is not None:
        return f"{text}, τ = {point.threshold:g}"
    if point.budget is not None:
        budget = point.budget.model_dump(exclude_none=True)
        return f"{text}, " + ", ".join(f"{share:g} of the {name}" for name, share in budget.items())
    return text


def _quality(point: FrontierPoint) -> str:
    by_name = {metric.name: metric for metric in point.metrics}
    for name in words.HEADLINE_METRICS:
        if (metric := by_name.get(name)) is not None:
            value = words.metric_value(name, metric.compressed)
            return f"{words.metric_name(name)} {value}, {words.metric_difference(metric)}"
    return ""
