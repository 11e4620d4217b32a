"""A whole job in this process, stage after stage, as the workflow calls them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankpress.schemas.report import EvaluationReport, LayerReport, PathPoint
from rankpress.schemas.request import JobRequest
from worker.child.messages import (
    Allocate,
    AllocateResult,
    Calibrate,
    Evaluate,
    Factorise,
    JobInputs,
    Limits,
    Read,
    Refit,
    RefitResult,
    Write,
    joined,
)
from worker.pipeline import Pipeline
from worker.read.calibrates import calibrates


@dataclass(frozen=True, kw_only=True)
class Done:
    """One result of a job."""

    path: Path
    layers: dict[str, LayerReport]  # of the candidates, and of biases that were corrected
    evaluation: EvaluationReport | None
    notes: tuple[str, ...]
    tried: tuple[PathPoint, ...]


def run(
    folder: Path,
    model: Path,
    *,
    files: dict[str, Path] | None = None,
    forms: Path | None = None,
    **fields: Any,
) -> list[Done]:
    """The results of a request on `model`. `files` are the paths of its uploads by their field
    (validation, template, calibration, statistics), `forms` the folder of kept tridiagonal forms.
    Every stage but the first runs in a fresh pipeline, as after a crash."""
    files = files or {}
    request = JobRequest.model_validate({"model": "m", **fields})
    statistics = files.get("statistics")
    if statistics is None and calibrates(request):
        statistics = folder / "made-statistics"
    inputs = JobInputs(
        request=request,
        models=(model,),
        model_names=(model.name,),
        validation=files.get("validation"),
        template=files.get("template"),
        calibration=files.get("calibration"),
        statistics=statistics,
        limits=Limits(threads=1, forms=forms, forms_bytes=10**9),
    )
    read = Pipeline().read(Read(inputs=inputs))
    if calibrates(request):
        Pipeline().calibrate(Calibrate(inputs=inputs))
    found, parts = [], []
    for i, names in enumerate(read.groups):
        part = folder / f"part-{i}"
        command = Factorise(inputs=inputs, names=names, part=part)
        found.append(Pipeline().factorise(command, nothing))
        parts.append(part)
    factorised = joined(found, request.results)
    allocated: AllocateResult | None = None
    if request.is_allocated:
        allocate = Allocate(inputs=inputs, factorised=factorised, parts=tuple(parts))
        allocated = Pipeline().allocate(allocate, nothing)
    done = []
    for i in range(request.results):
        layers = (allocated or factorised).of(i)
        refitted: RefitResult | None = None
        if request.refit:
            refit = Refit(
                inputs=inputs,
                result=i,
                layers=layers,
                parts=tuple(parts),
                out=folder / f"refit-{i}",
            )
            refitted = Pipeline().refit(refit, nothing)
            layers = refitted.layers
        write = Write(
            inputs=inputs,
            result=i,
            layers=layers,
            parts=tuple(parts),
            refit=folder / f"refit-{i}" if refitted else None,
            out=folder / f"out-{i}",
            spectrum=folder / "spectrum.json" if i == 0 else None,
        )
        written = Pipeline().write(write, nothing)
        evaluation = None
        if request.evaluation is not None:
            evaluate = Evaluate(inputs=inputs, artifact=write.out, artifact_sha256=written.sha256)
            evaluation = Pipeline().evaluate(evaluate, nothing).report
        done.append(
            Done(
                path=write.out,
                layers={layer.name: layer for layer in written.layers},
                evaluation=evaluation,
                notes=(
                    *read.notes,
                    *(allocated.notes[i] if allocated else ()),
                    *(refitted.notes if refitted else ()),
                ),
                tried=allocated.path if allocated else (),
            )
        )
    return done


def nothing(done: int, total: int) -> None:
    """Progress that nobody watches."""
