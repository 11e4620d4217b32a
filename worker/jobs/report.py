"""The report: what was planned, plus what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rankpress.names import Action, Aware, FileFormat, Rule
from rankpress.reporting.points import point_of
from rankpress.schemas.base import Frozen
from rankpress.schemas.report import EvaluationReport, LayerReport, RankReport
from rankpress.schemas.request import JobRequest
from worker.child.messages import (
    AllocateResult,
    EvaluateResult,
    ReadResult,
    RefitResult,
    WriteResult,
)
from worker.jobs.jobfiles import JobFiles

SUFFIXES = {
    FileFormat.SAFETENSORS: ".safetensors",
    FileFormat.TORCH: ".pt",
    FileFormat.TORCH_LEGACY: ".pt",
    FileFormat.TAR: ".tar",
    FileFormat.ONNX: ".onnx",
}


class WeightsFile(Frozen):
    sha256: str
    size_bytes: int
    format: FileFormat
    filename: str


@dataclass(frozen=True, kw_only=True)
class Produced:
    """What the steps of one result gave."""

    refitted: RefitResult | None
    written: WriteResult
    evaluated: EvaluateResult | None


class ResultSummary(Frozen):
    """What the API needs of one result."""

    weights: WeightsFile
    parameters_after: int


class ReportResult(Frozen):
    parameters_before: int
    results: tuple[ResultSummary, ...]


def compose(
    files: JobFiles,
    read: ReadResult,
    factorise_seconds: float,
    allocated: AllocateResult | None,
    results: Sequence[Produced],
) -> list[RankReport]:
    """A report for each result; each tells the frontier of all where there are several."""
    reports = [
        _compose(files, read, factorise_seconds, allocated, i, produced)
        for i, produced in enumerate(results)
    ]
    if len(reports) == 1:
        return reports
    frontier = tuple(point_of(report) for report in reports)
    return [report.model_copy(update={"frontier": frontier}) for report in reports]


def _compose(
    files: JobFiles,
    read: ReadResult,
    factorise_seconds: float,
    allocated: AllocateResult | None,
    result: int,
    produced: Produced,
) -> RankReport:
    """Every tensor of the input in the file's order, and the totals."""
    refitted, written, evaluated = produced.refitted, produced.written, produced.evaluated
    request = files.spec.request
    untouched = (_at_result(layer, read, request, result) for layer in read.untouched)
    by_name = {layer.name: layer for layer in (*untouched, *written.layers)}
    layers = tuple(_comparable(by_name[name], request) for name in read.order)
    seconds = {
        "read": read.seconds,
        "factorise": factorise_seconds,  # less than the sum of the layers', several at once
        "write": written.seconds,
    }
    if allocated is not None:
        seconds["allocate"] = allocated.seconds
    if refitted is not None:
        seconds["refit"] = refitted.seconds
    if evaluated is not None:
        seconds["evaluate"] = evaluated.seconds
    path = allocated.path if allocated else ()
    return RankReport(
        job_id=files.spec.job_id,
        created_at=datetime.now(UTC),
        rule=request.rule,
        threshold=request.threshold_of(result),
        budget=request.budget_of(result),
        aware=request.aware,
        sensitivity=read.sensitivity,
        result=result,
        path=path,
        not_reached=request.rule is Rule.AUTO and not any(point.accepted for point in path),
        protected_output=read.protected_output,
        protected_output_assumed=read.protected_output_assumed,
        weights_path=read.weights_path,
        layers=layers,
        parameters_before=_total(layers, "parameters_before"),
        parameters_after=_total(layers, "parameters_after"),
        bytes_before=files.input_bytes(),
        bytes_after=written.size_bytes,
        tensor_bytes_before=_total(layers, "bytes_before"),
        tensor_bytes_after=_total(layers, "bytes_after"),
        flops_per_sample_before=evaluated.flops_per_sample_before if evaluated else None,
        flops_per_sample_after=evaluated.flops_per_sample_after if evaluated else None,
        input_sha256=files.input_sha256(),
        output_sha256=written.sha256,
        output_format=written.format,
        evaluation=_traced(evaluated.report, files) if evaluated else None,
        seconds=seconds,
        versions=read.versions,
        notes=(
            *read.notes,
            *(allocated.notes[result] if allocated else ()),
            *(refitted.notes if refitted else ()),
        ),
    )


def _comparable(layer: LayerReport, request: JobRequest) -> LayerReport:
    """The optimum is of the matrix that was decomposed; the measured error is of the weights."""
    if request.aware is Aware.NONE or layer.optimal_relative_error is None:
        return layer
    return layer.model_copy(update={"optimal_relative_error": None})


def _traced(evaluation: EvaluationReport, files: JobFiles) -> EvaluationReport:
    """With the checksums of what was read beside the model."""
    return evaluation.model_copy(update=files.evaluation_sha256())


def _at_result(
    layer: LayerReport, read: ReadResult, request: JobRequest, result: int
) -> LayerReport:
    """An untouched tensor's report names the threshold that was asked of it."""
    if layer.threshold is None or layer.name in read.own_threshold:
        return layer
    return layer.model_copy(update={"threshold": request.threshold_of(result)})


def summary(reports: Sequence[RankReport], files: Sequence[WriteResult]) -> ReportResult:
    return ReportResult(
        parameters_before=reports[0].parameters_before,
        results=tuple(
            ResultSummary(
                weights=WeightsFile(
                    sha256=written.sha256,
                    size_bytes=written.size_bytes,
                    format=written.format,
                    filename=weights_filename(written.format, report.result),
                ),
                parameters_after=report.parameters_after,
            )
            for report, written in zip(reports, files, strict=True)
        ),
    )


def weights_filename(written: FileFormat, result: int = 0) -> str:
    """A name for the download; the caller's own name stays with the upload."""
    return f"compressed{f'-{result}' if result else ''}{SUFFIXES[written]}"


def _total(layers: tuple[LayerReport, ...], field: str) -> int:
    """Tied tensors are there once, whatever they are called elsewhere."""
    return sum(int(getattr(x, field)) for x in layers if x.action is not Action.ALIAS)
