"""What happened to a job, in order, out of the steps that its worker recorded.

The steps are the record; nothing is written twice for the sake of events. An event's place is
the number of its step and the place within the step's result: stored, stable, and the same for
every reader.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from rankpress.schemas.report import EvaluationReport, LayerReport
from rankpress.service.records import Step

# A group's result comes from a step of the job itself, or from the workflow it was handed to; where
# the ranks are chosen together, most come with the step allocate.
GROUP_STEPS = ("factorise", "DBOS.getResult", "allocate")
EVALUATE_STEP = "evaluate"


class Place(NamedTuple):
    """Where an event stands: places compare in the order of the events."""

    step: int
    item: int

    def encode(self) -> str:
        return f"{self.step}-{self.item}"

    @classmethod
    def decode(cls, text: str) -> Self | None:
        step, _, item = text.partition("-")
        if not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in (step, item)):
            return None
        return cls(int(step), int(item))


class LayerEvent(NamedTuple):
    """A tensor was dealt with. A refit may still change its factors, and the report undo it:
    `whole_model_not_smaller`."""

    place: Place
    layer: LayerReport


class EvaluationEvent(NamedTuple):
    place: Place
    evaluation: EvaluationReport


def events_of(steps: list[Step]) -> list[LayerEvent | EvaluationEvent]:
    found: list[LayerEvent | EvaluationEvent] = []
    for step in steps:
        if not isinstance(step.output, dict):
            continue
        if step.name in GROUP_STEPS:
            layers = _layers(step.output)
            found += [LayerEvent(Place(step.id, at), layer) for at, layer in enumerate(layers)]
        elif step.name == EVALUATE_STEP:
            report = EvaluationReport.model_validate(step.output["report"])
            found.append(EvaluationEvent(Place(step.id, 0), report))
    return found


def _layers(output: dict[str, Any]) -> list[LayerReport]:
    try:
        return [LayerReport.model_validate(layer) for layer in output.get("layers", ())]
    except ValidationError:  # the result of another kind of workflow
        return []
