"""A job as the database has it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from dbos import PortableWorkflowError, WorkflowStatus

from rankpress.errors import InternalError, TooManyAttempts
from rankpress.names import State
from rankpress.schemas.problem import Problem
from rankpress.service.spec import JobSpec

STATES: dict[str, State] = {
    "ENQUEUED": State.QUEUED,
    "DELAYED": State.QUEUED,
    "PENDING": State.RUNNING,
    "SUCCESS": State.SUCCEEDED,
    "ERROR": State.FAILED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": State.FAILED,
    "CANCELLED": State.CANCELED,
}
OPEN = [name for name, state in STATES.items() if not state.terminal]


class Record(NamedTuple):
    """A job as the database has it."""

    spec: JobSpec
    state: State
    created_ms: int
    started_ms: int | None
    finished_ms: int | None
    error: Problem | None
    output: dict[str, Any] | None


class Step(NamedTuple):
    """A recorded step of a job's workflow."""

    id: int
    name: str
    output: Any


def record_of(status: WorkflowStatus) -> Record:
    if status.input is None or status.created_at is None:
        raise InternalError("a job's record cannot be read")
    state = STATES[status.status]
    output = status.output if isinstance(status.output, dict) else None
    return Record(
        spec=JobSpec.model_validate(status.input["args"][0]),
        state=state,
        created_ms=status.created_at,
        started_ms=status.dequeued_at,
        finished_ms=(status.completed_at or status.updated_at) if state.terminal else None,
        error=_problem(status) if state is State.FAILED else None,
        output=output,
    )


def _problem(status: WorkflowStatus) -> Problem:
    """The problem that the worker raised; anything else is an internal error without its text."""
    if status.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
        return TooManyAttempts(
            f"the job was taken up {status.recovery_attempts} times and its worker died each time"
        ).to_problem()
    error = status.error
    if isinstance(error, PortableWorkflowError) and isinstance(error.data, dict):
        return Problem.model_validate(error.data)
    return InternalError("the worker failed; the operator's log has the reason").to_problem()


def time_of(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def iso_of(milliseconds: int) -> str:
    return time_of(milliseconds).isoformat()
