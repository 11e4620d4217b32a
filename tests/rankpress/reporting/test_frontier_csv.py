"""The frontier as a table: read back by csv, number for number."""

from __future__ import annotations

import csv
import io

import pytest

from rankpress.names import Rule, Verdict
from rankpress.reporting import frontier_csv
from rankpress.schemas.report import FrontierPoint, RankReport
from rankpress.schemas.request import Budget
from tests.rankpress.reporting import samples


def rows(report: RankReport) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(frontier_csv(report), newline="")))


def test_a_row_for_each_result() -> None:
    scored = samples.evaluation()
    points = tuple(
        FrontierPoint(
            index=i,
            rule=Rule.BUDGET,
            budget=Budget(bytes=share),
            ranks={"=cmd.weight": rank, "b.weight": None},
            parameters_after=1000 * (i + 1),
            bytes_after=4000 * (i + 1),
            output_sha256=str(i) * 64,
            samples=scored.samples,
            metrics=scored.metrics,
            latency=scored.latency,
            verdict=Verdict.WITHIN,
        )
        for i, (share, rank) in enumerate(((0.125, 7), (0.5, 30)))
    )
    report = samples.report(frontier=points, rule=Rule.BUDGET, threshold=None)
    found = rows(report)
    assert [row["result"] for row in found] == ["0", "1"]
    assert [row["budget_bytes"] for row in found] == ["0.125", "0.5"]
    assert {row["threshold"] for row in found} == {row["budget_flops"] for row in found} == {""}
    assert [float(row["parameters_share"]) for row in found] == [
        pytest.approx(n / report.parameters_before) for n in (1000, 2000)
    ]
    for metric in scored.metrics:
        for name, value in {"": metric.compressed, "_dense": metric.dense}.items():
            text = found[1][metric.name + name]
            assert text == ("" if value is None else repr(value))
    for latency in scored.latency:
        text = found[0][f"compressed_seconds_batch_{latency.batch_size}"]
        assert float(text) == latency.compressed_seconds
    # Names come from a stranger's file: none is a formula for a spreadsheet.
    assert [row["rank =cmd.weight"] for row in found] == ["7", "30"]
    assert {row["rank b.weight"] for row in found} == {""}
    assert not any(name.startswith("=") for name in found[0])


def test_a_job_with_one_result_has_one_row() -> None:
    report = samples.report()
    (row,) = rows(report)
    assert row["output_sha256"] == report.output_sha256
    assert float(row["threshold"]) == report.threshold
    assert int(row["parameters_after"]) == report.parameters_after
    # 21 is the rule's rank of a layer that was then kept dense.
    assert (row["rank net.0.weight"], row["rank net.2.weight"]) == ("7", "")
