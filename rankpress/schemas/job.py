"""A job, as its caller sees it."""

from datetime import datetime

from pydantic import Field

from rankpress.names import Stage, State
from rankpress.schemas.base import Frozen
from rankpress.schemas.problem import Problem
from rankpress.schemas.request import JobRequest


class Progress(Frozen):
    """Within the stage: `done` of `total` units (layers when factorising, batches when
    evaluating)."""

    done: int = 0
    total: int = 0


class Links(Frozen):
    """Paths of what the job has; `weights` and `report` come with success."""

    self: str
    cancel: str | None = None
    report: str | None = None
    weights: str | None = None


class Job(Frozen):
    id: str
    state: State
    stage: Stage | None = None
    progress: Progress = Progress()
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    request: JobRequest
    error: Problem | None = None
    links: Links


class JobPage(Frozen):
    items: tuple[Job, ...]
    next_cursor: str | None = Field(
        default=None, description="Pass as `cursor` for the next page; null on the last one"
    )
