"""A report as one point of size against quality."""

from __future__ import annotations

from rankpress.names import Action
from rankpress.schemas.report import FrontierPoint, RankReport


def point_of(report: RankReport) -> FrontierPoint:
    evaluation = report.evaluation
    return FrontierPoint(
        index=report.result,
        rule=report.rule,
        threshold=report.threshold,
        budget=report.budget,
        ranks={
            layer.name: layer.rank if layer.action is Action.FACTORISED else None
            for layer in report.layers
            if layer.full_rank is not None
        },
        parameters_after=report.parameters_after,
        bytes_after=report.bytes_after,
        output_sha256=report.output_sha256,
        samples=evaluation.samples if evaluation else None,
        metrics=evaluation.metrics if evaluation else (),
        latency=evaluation.latency if evaluation else (),
        verdict=evaluation.verdict if evaluation else None,
    )
