"""A model through the running service, and its numbers beside torch's own."""

from __future__ import annotations

import copy
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

import rankpress
from benchmarks.real.packages import CACHE
from rankpress.client import Client, Compressed
from rankpress.schemas.report import Latency

TOLERANCE = 1e-4
BATCH = 50
CALIBRATION_BINS = 15
TOP_K = 5
TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """Inputs by name; `targets` None: the embeddings themselves are scored."""

    inputs: Mapping[str, Tensor]
    targets: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Subject:
    name: str
    model: nn.Module
    scored: Part
    calibration: Mapping[str, Tensor]
    examples: Tensor | Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job; `metrics` are (dense, compressed) as the service measured them."""

    subject: str
    rule: str
    share: float
    metrics: Mapping[str, tuple[float | None, float | None]]
    difference: float  # the largest between the service's numbers and torch's
    latency: Sequence[Latency]
    flops: tuple[int | None, int | None]
    seconds: Mapping[str, float]
    device: str


RULES: Mapping[str, dict[str, Any]] = {
    "energy, tau 0.95": {"rule": "energy", "threshold": 0.95},
    "budget 0.8, two-sided": {
        "rule": "budget",
        "budget": {"parameters": 0.8},
        "aware": "two_sided",
    },
}


def run(client: Client, subject: Subject) -> list[Row]:
    """A row for each of RULES. Raises AssertionError where the service's numbers are not
    torch's."""
    statistics = client.upload(_statistics(subject)).id
    targets = subject.scored.targets
    arrays = dict(subject.scored.inputs) | ({} if targets is None else {"targets": targets})
    rows = []
    for name, fields in RULES.items():
        aware = {"statistics": statistics} if "aware" in fields else {}
        done = client.compress(
            copy.deepcopy(subject.model),
            validation=arrays,
            example_inputs=subject.examples,
            timeout=TIMEOUT_SECONDS,
            evaluation={
                "task": "classification" if targets is not None else "embedding",
                "batch_size": BATCH,
            },
            **fields,
            **aware,
        )
        rows.append(_row(subject, name, done))
        print(f"{subject.name}: {rows[-1]}", flush=True)
    return rows


def _statistics(subject: Subject) -> Path:
    names, size = list(subject.calibration), len(next(iter(subject.calibration.values())))
    batches = [
        {name: subject.calibration[name][i : i + BATCH] for name in names}
        for i in range(0, size, BATCH)
    ]
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "statistics.safetensors"
    return rankpress.collect_statistics(copy.deepcopy(subject.model), batches, path, two_sided=True)


def by_torch(dense: nn.Module, compressed: nn.Module, part: Part) -> dict[str, tuple[float, float]]:
    """(dense, compressed) by metric, straight from the two models."""
    outputs = [_outputs(model, part.inputs) for model in (dense, compressed)]
    found = _fidelity(*outputs)
    if part.targets is None:
        cosine = float(functional.cosine_similarity(*outputs, dim=1).mean())
        return {"cosine_to_dense": (1.0, cosine), **found}
    same = float((outputs[0].argmax(1) == outputs[1].argmax(1)).double().mean())
    own, others = (_classified(logits, part.targets) for logits in outputs)
    return {**{name: (own[name], others[name]) for name in own}, "agreement": (1.0, same), **found}


def _fidelity(dense: Tensor, compressed: Tensor) -> dict[str, tuple[float, float]]:
    error = compressed - dense
    return {
        "relative_output_error": (0.0, float(error.norm() / dense.norm())),
        "worst_relative_output_error": (
            0.0,
            float((error.norm(dim=1) / dense.norm(dim=1)).max()),
        ),
    }


def _classified(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """torchmetrics of float64 logits [B, C]; no top-5 where every class is among five."""
    classes = logits.shape[1]
    found = {
        "accuracy": multiclass_accuracy(logits, targets, classes, average="micro"),
        "macro_f1": multiclass_f1_score(logits, targets, classes, average="macro"),
        "cross_entropy": functional.cross_entropy(logits, targets),
        "calibration_error": multiclass_calibration_error(
            logits.softmax(1), targets, classes, n_bins=CALIBRATION_BINS
        ),
    }
    if classes >= TOP_K:
        found["top5_accuracy"] = multiclass_accuracy(
            logits, targets, classes, average="micro", top_k=TOP_K
        )
    return {name: float(value) for name, value in found.items()}


def _outputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    size = len(next(iter(inputs.values())))
    with torch.inference_mode():
        parts = [
            model(**{name: values[i : i + BATCH] for name, values in inputs.items()})
            for i in range(0, size, BATCH)
        ]
    return torch.cat(parts).double()


def furthest(
    metrics: Mapping[str, tuple[float | None, float | None]],
    direct: Mapping[str, tuple[float, float]],
) -> float:
    """The largest difference between the two, as a share of the value where that is above 1 (a
    sample's error relative to an answer near zero); infinite where not both have the same metrics.
    """
    if metrics.keys() != direct.keys():
        return math.inf
    pairs = [pair for name in direct for pair in zip(metrics[name], direct[name], strict=True)]
    return max(
        math.inf if found is None else abs(found - wanted) / max(1.0, abs(wanted))
        for found, wanted in pairs
    )


def _row(subject: Subject, rule: str, done: Compressed) -> Row:
    report, evaluation = done.report, done.report.evaluation
    assert evaluation is not None
    metrics = {m.name: (m.dense, m.compressed) for m in evaluation.metrics}
    direct = by_torch(subject.model, done.model, subject.scored)
    difference = furthest(metrics, direct)
    if not difference <= TOLERANCE:
        raise AssertionError(f"{subject.name}, {rule}: {metrics} here, {direct} in torch")
    return Row(
        subject=subject.name,
        rule=rule,
        share=report.parameters_after / report.parameters_before,
        metrics=metrics,
        difference=difference,
        latency=evaluation.latency,
        flops=(report.flops_per_sample_before, report.flops_per_sample_after),
        seconds=report.seconds,
        device=f"{evaluation.device}, {platform.machine()}",
    )
