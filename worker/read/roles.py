"""Which samples calibrate, which a search looks at, and which are scored: never the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rankpress.errors import EvaluationMismatch
from rankpress.names import Rule
from worker.child.messages import JobInputs
from worker.evaluation.data import DataPlan, check_inputs, width_of
from worker.evaluation.plan import EvaluationPlan
from worker.read.calibrates import calibrates

MODULUS = 5
CALIBRATION = frozenset((0,))
SEARCH = frozenset((1, 3))
LEAST_SCORED = 2


@dataclass(frozen=True, kw_only=True)
class Roles:
    """`scored` is what the report's metrics are of; `search` what the rule auto chooses by."""

    calibration: DataPlan | None
    calibration_file: Path | None
    search: DataPlan | None
    scored: DataPlan
    notes: tuple[str, ...]


def assign(inputs: JobInputs, plan: EvaluationPlan) -> Roles:
    """Every fifth sample calibrates, unless there is a file for that; the rule auto searches on
    two of the five. Raises EvaluationMismatch for too few samples, or a calibration file that does
    not fit the model."""
    request, data = inputs.request, plan.data
    file = inputs.validation
    left = frozenset(range(MODULUS))
    calibration = search = None
    notes: list[str] = []
    if calibrates(request) and inputs.calibration is not None:
        file = inputs.calibration
        _check_widths(inputs, plan)
        calibration = check_inputs(
            file,
            inputs=data.inputs,
            compute_dtype=data.compute_dtype,
            batch_size=data.batch_size,
        )
        notes.append(
            f"Calibrated on the {calibration.samples} samples of the calibration file; "
            f"no label of them was read."
        )
    elif calibrates(request):
        calibration = data.only(MODULUS, CALIBRATION)
        left -= CALIBRATION
        notes.append(
            f"Calibrated on every fifth validation sample ({calibration.samples}), whose labels "
            "were not read and which is not scored."
        )
    if request.rule is Rule.AUTO:
        chosen = left - {2, 4}
        search = data.only(MODULUS, chosen)
        left -= chosen
        notes.append(
            f"The ranks were chosen by {search.samples} validation samples; the metrics are of "
            "others, which played no part."
        )
    scored = data if len(left) == MODULUS else data.only(MODULUS, left)
    if scored is not data:
        notes.append(f"{scored.samples} of {data.samples} validation samples are scored.")
    if min(scored.samples, search.samples if search else LEAST_SCORED) < LEAST_SCORED:
        raise EvaluationMismatch(
            f"{data.samples} validation samples are too few to be divided into those that the "
            "factors or ranks are chosen by and those that are scored."
        )
    return Roles(
        calibration=calibration,
        calibration_file=file if calibration is not None else None,
        search=search,
        scored=scored,
        notes=tuple(notes),
    )


def _check_widths(inputs: JobInputs, plan: EvaluationPlan) -> None:
    """Where the model takes samples of any shape by what the validation file holds, the calibration
    file must hold the like. Raises EvaluationMismatch."""
    assert inputs.validation is not None
    assert inputs.calibration is not None
    for spec in plan.data.inputs:
        if spec.shape is not None:
            continue
        wanted = width_of(inputs.validation, spec.name)
        found = width_of(inputs.calibration, spec.name)
        if found != wanted:
            raise EvaluationMismatch(
                f"The calibration file has {found} values a sample in {spec.name!r}, the "
                f"validation file {wanted}."
            )
