"""What the worker and its compute process say to each other: one JSON text a message.

JSON and not pickle, since the compute process opens hostile files: whatever it says must be data.
Every command carries all it needs, so that a job resumes in a fresh process at any stage.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, TypeAdapter

from rankpress import formats
from rankpress.names import FileFormat, Kind, Sensitivity
from rankpress.schemas.base import Frozen
from rankpress.schemas.problem import Problem
from rankpress.schemas.report import EvaluationReport, LayerReport, PathPoint, Versions
from rankpress.schemas.request import JobRequest


class Limits(Frozen):
    """What the compute process may use, and how large the headers are that it reads. Zero is what
    the machine has."""

    threads: int = 0
    step_seconds: PositiveFloat = 5.0  # of work between two records of it
    layers_bytes: int = 1024**3  # of the layers that are computed at once
    memory_bytes: int = 0  # address space beyond the mapped files and the threads
    cpu_seconds: int = 0
    max_header_bytes: int = formats.Limits.max_header_bytes
    max_tensors: int = formats.Limits.max_tensors
    device: str = "auto"
    forms: Path | None = None  # the caller's folder of kept tridiagonal forms
    forms_bytes: int = 0  # of all callers' folders together

    @property
    def of_files(self) -> formats.Limits:
        """The bounds that the API took the files under."""
        return formats.Limits(max_header_bytes=self.max_header_bytes, max_tensors=self.max_tensors)


class JobInputs(Frozen):
    """The job's request and the local files that it reads."""

    request: JobRequest
    models: tuple[Path, ...]
    model_names: tuple[str | None, ...]  # as the caller named the files: labels
    validation: Path | None = None
    template: Path | None = None
    calibration: Path | None = None
    statistics: Path | None = None  # the caller's, or where the stage calibrate puts them
    limits: Limits = Limits()


class Read(Frozen):
    stage: Literal["read"] = "read"
    inputs: JobInputs


class Factorise(Frozen):
    stage: Literal["factorise"] = "factorise"
    inputs: JobInputs
    names: tuple[str, ...]
    part: Path  # where the factors and spectra of these layers go


class Calibrate(Frozen):
    """Fills `inputs.statistics` from the samples."""

    stage: Literal["calibrate"] = "calibrate"
    inputs: JobInputs


class WideLayer(Frozen):
    """A layer whose part holds factors of the largest useful rank: any lower one is a slice."""

    name: str
    kind: Kind  # of the view that was decomposed
    rank: int
    driver: str
    seconds: float


class FactoriseResult(Frozen):
    """`layers` are the reports of the job's first result, `others` those of its further ones.

    Where ranks are chosen together, `layers` holds what stays dense in any case, and `wide` the
    layers that wait for the stage allocate.
    """

    layers: tuple[LayerReport, ...]
    others: tuple[tuple[LayerReport, ...], ...] = ()
    wide: tuple[WideLayer, ...] = ()
    seconds: float

    def of(self, result: int) -> tuple[LayerReport, ...]:
        return self.layers if result == 0 else self.others[result - 1]


def joined(found: Sequence[FactoriseResult], results: int) -> FactoriseResult:
    """The groups of a job as one."""
    first, *others = (
        tuple(layer for group in found for layer in group.of(i)) for i in range(results)
    )
    return FactoriseResult(
        layers=first,
        others=tuple(others),
        wide=tuple(layer for group in found for layer in group.wide),
        seconds=sum(group.seconds for group in found),
    )


class Allocate(Frozen):
    """Chooses the ranks of all layers together, for every result."""

    stage: Literal["allocate"] = "allocate"
    inputs: JobInputs
    factorised: FactoriseResult  # of every group
    parts: tuple[Path, ...]


class Refit(Frozen):
    """Right factors made anew on the samples, for one result."""

    stage: Literal["refit"] = "refit"
    inputs: JobInputs
    result: int = 0
    layers: tuple[LayerReport, ...]  # of every candidate
    parts: tuple[Path, ...]
    out: Path  # where the new factors and biases go


class Write(Frozen):
    stage: Literal["write"] = "write"
    inputs: JobInputs
    result: int = 0
    layers: tuple[LayerReport, ...]  # of every candidate
    parts: tuple[Path, ...]
    refit: Path | None = None  # what Refit made of this result
    out: Path
    spectrum: Path | None = None  # where the singular values of every layer go, as JSON


class Evaluate(Frozen):
    stage: Literal["evaluate"] = "evaluate"
    inputs: JobInputs
    artifact: Path
    artifact_sha256: str


AnyCommand = Read | Calibrate | Factorise | Allocate | Refit | Write | Evaluate
COMMAND: TypeAdapter[AnyCommand] = TypeAdapter(Annotated[AnyCommand, Field(discriminator="stage")])


class ReadResult(Frozen):
    """The plan, as far as the worker needs it."""

    groups: tuple[tuple[str, ...], ...]  # names of the layers of each factorise step
    untouched: tuple[LayerReport, ...]  # every tensor that is no candidate, with the reason
    order: tuple[str, ...]  # all tensors, in the file's order
    own_threshold: frozenset[str] = frozenset()  # untouched ones whose threshold is an override's
    protected_output: str | None
    protected_output_assumed: bool
    weights_path: str | None
    sensitivity: Sensitivity | None = None
    notes: tuple[str, ...]
    versions: Versions
    fan_out: bool = False
    seconds: float


class CalibrateResult(Frozen):
    samples: int
    seconds: float


class AllocateResult(Frozen):
    """As `FactoriseResult`, complete: the reports of every candidate, by result."""

    layers: tuple[LayerReport, ...]
    others: tuple[tuple[LayerReport, ...], ...] = ()
    notes: tuple[tuple[str, ...], ...]  # by result: sentences for its report
    path: tuple[PathPoint, ...] = ()  # what the rule auto tried
    seconds: float

    def of(self, result: int) -> tuple[LayerReport, ...]:
        return self.layers if result == 0 else self.others[result - 1]


class RefitResult(Frozen):
    layers: tuple[LayerReport, ...]  # of every candidate
    notes: tuple[str, ...]
    seconds: float


class WriteResult(Frozen):
    sha256: str
    size_bytes: int
    format: FileFormat
    layers: tuple[LayerReport, ...]  # as written: undone when the whole file would have grown;
    # and those of biases that were corrected
    seconds: float


class EvaluateResult(Frozen):
    report: EvaluationReport
    flops_per_sample_before: int | None
    flops_per_sample_after: int | None
    seconds: float


class Advanced(Frozen):
    """`done` of `total` units of the running stage."""

    kind: Literal["progress"] = "progress"
    done: int
    total: int


class Finished(Frozen):
    kind: Literal["finished"] = "finished"
    result: dict[str, object]


class Refused(Frozen):
    """The stage ended in an error that the caller is told as it is."""

    kind: Literal["refused"] = "refused"
    problem: Problem


Answer = Annotated[Advanced | Finished | Refused, Field(discriminator="kind")]
ANSWER: TypeAdapter[Advanced | Finished | Refused] = TypeAdapter(Answer)
