"""Every rule on one network: a setting chosen on validation images, then scored on the test set."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.reproduce.measured import kept_rows, rows_of
from benchmarks.reproduce.rules import (
    AUTO,
    BOUND,
    CANDIDATES,
    SOFTMAX,
    Candidate,
    accuracy_of,
    surely_within,
)
from benchmarks.reproduce.service import Compressor
from benchmarks.reproduce.subjects import Subject
from rankpress.schemas.report import FrontierPoint, RankReport

# The shares that the method is held to, by network.
PROMISED = {"mnist/mlp": 0.05, "fashion_mnist/mlp": 0.08}
HELD = ("two_sided + budget", "two_sided, softmax + budget")
AT_ONCE = 12  # each job decomposes anew
QUIET = 1.2  # load average for each core, the measurement's own work included


def run(
    compressor: Compressor,
    subject: Subject,
    rules: Sequence[str],
    *,
    latency: bool = True,
    again: bool = True,
) -> None:
    """Keeps a row for each of `rules`, as soon as it is there; unless `again`, not for those that
    have one."""
    print(subject.key, flush=True)
    by_name = {candidate.name: candidate for candidate in CANDIDATES}
    there = {row["rule"] for row in rows_of(subject.key, subject.setup)}
    for rule in rules:
        if not again and rule in there:
            continue
        if rule == AUTO:
            row = _auto(compressor, subject, latency)
        else:
            row = _candidate(compressor, subject, by_name[rule], latency)
        print(f"  {rule}: {_line(row)} ({row['seconds']:.0f} s)", flush=True)
        kept_rows(subject.key, [row], subject.setup)


def _candidate(
    compressor: Compressor, subject: Subject, candidate: Candidate, latency: bool
) -> dict[str, Any]:
    started = time.perf_counter()
    fields = _chosen(compressor, subject, candidate)
    row: dict[str, Any] = {"rule": candidate.name, "chosen": fields is not None}
    if fields is not None:
        request = subject.scored_on("test", fields, latency=latency)
        row |= _tested(compressor.report(subject.model, request))
        row["setting"] = setting_of(fields, candidate.setting)
    share = PROMISED.get(subject.key.rpartition("/")[0])
    if candidate.name in HELD and share is not None:
        fields = {**candidate.fields, "budget": {"parameters": share}}
        request = subject.scored_on("test", fields, latency=False)
        row["promised"] = _tested(compressor.report(subject.model, request))
    return row | {"seconds": time.perf_counter() - started}


def _chosen(
    compressor: Compressor, subject: Subject, candidate: Candidate
) -> dict[str, Any] | None:
    """The fields of the smallest model that is surely within, on validation images; None without
    one. A job has AT_ONCE settings, and what lies below the first that fails is not computed."""
    fields = None
    for part in candidate.parts(AT_ONCE):
        request = subject.scored_on("validation", part.sweep(), latency=False)
        swept = compressor.report(subject.model, request)
        points = swept.frontier or (_only(swept),)
        within = surely_within(points)
        if within:
            fields = part.at(within[-1])
        if len(within) < len(points):
            break
    return fields


def _auto(compressor: Compressor, subject: Subject, latency: bool) -> dict[str, Any]:
    """Searches on validation images; the test set then says whether the promise was kept."""
    started = time.perf_counter()
    fields = {"rule": "auto", **SOFTMAX}
    request = subject.scored_on("validation", fields, latency=False, max_drop={"accuracy": BOUND})
    searched = compressor.report(subject.model, request)
    row: dict[str, Any] = {"rule": AUTO, "chosen": not searched.not_reached}
    if not searched.not_reached:
        share = [point for point in searched.path if point.accepted][-1].share
        request = subject.scored_on("test", _at_share(share), latency=latency)
        row |= _tested(compressor.report(subject.model, request))
        row["setting"] = f"max_drop {BOUND}"
        row["tried"] = len(searched.path)
    return row | {"seconds": time.perf_counter() - started}


def retime(compressor: Compressor, subject: Subject) -> None:
    """Takes the latencies of the rows anew that were taken while others worked, or not at all; of
    the models that were chosen then."""
    for row in rows_of(subject.key, subject.setup):
        if not row["chosen"] or (row["latency"] and row["load"] <= QUIET):
            continue
        request = subject.scored_on("test", fields_of(row), latency=True)
        timed = _tested(compressor.report(subject.model, request))
        if timed["parameters_after"] != row["parameters_after"]:
            raise RuntimeError(f"{subject.key}, {row['rule']}: another model than the row is of")
        print(f"  {row['rule']}: load {timed['load']:.1f}", flush=True)
        times = {key: timed[key] for key in ("latency", "load")}
        kept_rows(subject.key, [row | times], subject.setup)


def fields_of(row: dict[str, Any]) -> dict[str, Any]:
    """The request's fields of the model that a row is of."""
    if row["rule"] == AUTO:
        return _at_share(row["share"])
    (candidate,) = (one for one in CANDIDATES if one.name == row["rule"])
    for i in range(len(candidate.settings) or 1):
        if setting_of(candidate.at(i), candidate.setting) == row["setting"]:
            return candidate.at(i)
    raise RuntimeError(f"{row['rule']} has no setting {row['setting']!r} any more")


def _at_share(share: float) -> dict[str, Any]:
    return {"rule": "budget", "budget": {"parameters": min(share + 1e-9, 1.0)}, **SOFTMAX}


def _only(report: RankReport) -> FrontierPoint:
    assert report.evaluation is not None
    return FrontierPoint(
        index=0,
        rule=report.rule,
        ranks={},
        parameters_after=report.parameters_after,
        bytes_after=report.bytes_after,
        output_sha256=report.output_sha256,
        metrics=report.evaluation.metrics,
    )


def setting_of(fields: dict[str, Any], name: str | None) -> str:
    """As the table tells it."""
    value = fields.get(name) if name else None
    if isinstance(value, dict):
        return ", ".join(f"{share:g} of the {unit}" for unit, share in value.items())
    return "" if value is None else f"tau = {value:g}"


def _tested(report: RankReport) -> dict[str, Any]:
    """What the table shows of a model that was scored on the test set."""
    assert report.evaluation is not None
    metrics = {metric.name: metric for metric in report.evaluation.metrics}
    accuracy, f1 = accuracy_of(report.evaluation.metrics), metrics["macro_f1"]
    return {
        "parameters_before": report.parameters_before,
        "parameters_after": report.parameters_after,
        "share": report.parameters_after / report.parameters_before,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "accuracy": [accuracy.dense, accuracy.compressed],
        "interval": [accuracy.interval.low, accuracy.interval.high] if accuracy.interval else None,
        "macro_f1": [f1.dense, f1.compressed],
        "ranks": {
            layer.name: layer.rank for layer in report.layers if layer.action == "factorised"
        },
        "load": os.getloadavg()[0] / (os.cpu_count() or 1),
        "latency": [
            {"batch": t.batch_size, "dense": t.dense_seconds, "compressed": t.compressed_seconds}
            for t in report.evaluation.latency
        ],
    }


def _line(row: dict[str, Any]) -> str:
    if not row["chosen"]:
        return "no setting"
    dense, compressed = row["accuracy"]
    text = f"{row['share']:.2%} of the weights, accuracy {dense:.4f} -> {compressed:.4f}"
    if "promised" in row:
        at = row["promised"]
        text += f"; at {at['share']:.2%}: {at['accuracy'][1]:.4f}"
    return text
