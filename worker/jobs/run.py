"""How a job's stages are run: as recorded steps, in a compute process, with their files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import structlog
from dbos import DBOS, PortableWorkflowError

from rankpress.errors import ChildDied, InternalError, RankpressError, Unavailable
from rankpress.names import Stage
from rankpress.schemas.base import Frozen
from rankpress.service.engine import Engine
from rankpress.service.settings import Settings
from rankpress.service.spec import PROGRESS_EVENT, JobSpec, ProgressEvent
from rankpress.service.store import Store
from rankpress.service.tracing import Tracing
from worker.child.messages import Factorise, FactoriseResult, JobInputs
from worker.child.pool import ChildPool
from worker.jobs.jobfiles import JobFiles
from worker.jobs.metrics import WorkerMetrics

R = TypeVar("R", bound=Frozen)
PROGRESS_INTERVAL_SECONDS = 0.25
STORE_ATTEMPTS = 5

log = structlog.get_logger(__name__)


class Resources:
    """What every run of this worker shares."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine: Engine,
        pool: ChildPool,
        metrics: WorkerMetrics,
        tracing: Tracing,
    ) -> None:
        self.settings = settings
        self.store = store
        self.engine = engine
        self.pool = pool
        self.metrics = metrics
        self.tracing = tracing


class Run:
    """One run of one workflow of one job."""

    def __init__(self, resources: Resources, spec: JobSpec) -> None:
        self.resources = resources
        self.spec = spec
        self.files = JobFiles(resources.settings, resources.store, spec)
        self._noted_at = 0.0
        self._started_at = time.time()

    async def step(
        self, name: str, kind: type[R], body: Callable[[], Awaitable[R]], group: int | None = None
    ) -> R:
        """Runs `body` once for ever. Its error is recorded as the problem that the caller sees;
        one that the store or the database may get over is tried again."""

        async def recorded() -> dict[str, Any]:
            try:
                with self.span(name, group=group):
                    return (await body()).model_dump(mode="json")
            except RankpressError as error:
                raise portable(error) from error
            except Exception as error:
                log.exception("step_failed", step=name)
                raise portable(
                    InternalError("the worker failed; its log has the reason")
                ) from error

        found = await DBOS.run_step_async(
            {
                "name": name,
                "preemptible": True,
                "retries_allowed": True,
                "max_attempts": STORE_ATTEMPTS,
                "should_retry": _is_passing,
            },
            recorded,
        )
        return kind.model_validate(found)

    def span(self, name: str, group: int | None = None) -> AbstractContextManager[None]:
        """Around the job, or one of its stages: below the request that asked for it."""
        spec = self.spec
        return self.resources.tracing.span(
            name, spec.trace, job_id=spec.job_id, request_id=spec.request_id, group=group
        )

    async def factorise(
        self, group: int, names: tuple[str, ...], before: int, total: int
    ) -> FactoriseResult:
        """One group of layers; its factors go to the store."""
        await self.note(Stage.FACTORISE, before, total, force=before == 0)
        inputs = await asyncio.to_thread(self.files.fetch_inputs)
        command = Factorise(inputs=inputs, names=names, part=self.files.part(group))
        result = await self.call(command, FactoriseResult, Stage.FACTORISE, before, total)
        await asyncio.to_thread(self.files.put_part, group)
        return result

    async def call(
        self, command: Frozen, kind: type[R], stage: Stage, before: int = 0, total: int = 0
    ) -> R:
        """Sends a command to a compute process; one that died is replaced and asked again."""

        async def advanced(done: int, of: int) -> None:
            await self.note(stage, before + done, total or of)

        attempts = self.resources.settings.child_attempts
        for attempt in range(1, attempts + 1):
            try:
                return await self._call_once(command, kind, advanced)
            except ChildDied as error:
                if self.resources.pool.closed:
                    # The worker is going down and took the process with it: the job goes on
                    # when the worker is back, so nothing may be recorded now.
                    await asyncio.Event().wait()
                self.resources.metrics.child_deaths.inc()
                log.warning("child_died", stage=stage, attempt=attempt, detail=error.detail)
                if attempt == attempts:
                    detail = f"{error.detail}; stage {stage}, {attempts} attempts"
                    raise ChildDied(detail) from error
        raise AssertionError("child_attempts is positive")

    async def _call_once(
        self, command: Frozen, kind: type[R], advanced: Callable[[int, int], Awaitable[None]]
    ) -> R:
        pool, job_id = self.resources.pool, self.spec.job_id
        child = await asyncio.to_thread(pool.take, job_id)
        try:
            result = await child.call(command, kind, advanced)
        except RankpressError as error:
            if isinstance(error, ChildDied):
                await asyncio.to_thread(pool.give_up, job_id, child)
            else:
                pool.give_back(job_id, child)
            raise
        except BaseException:  # cancelled, or a message that is none: never used again
            await asyncio.shield(asyncio.to_thread(pool.give_up, job_id, child))
            raise
        pool.give_back(job_id, child)
        return result

    async def begin(self, stage: Stage) -> JobInputs:
        """A stage's inputs on this disk; callers hear that it has begun."""
        await self.note(stage, 0, 1, force=True)
        return await asyncio.to_thread(self.files.fetch_inputs)

    async def note(self, stage: Stage, done: int, total: int, *, force: bool = False) -> None:
        """Writes the progress event, at most four times a second."""
        now = time.monotonic()
        if not force and done < total and now - self._noted_at < PROGRESS_INTERVAL_SECONDS:
            return
        self._noted_at = now
        event = ProgressEvent(stage=stage, done=done, total=total, started_at=self._started_at)
        await DBOS.set_event_async(PROGRESS_EVENT, event.model_dump(mode="json"))


def portable(error: RankpressError) -> PortableWorkflowError:
    """The error as the database keeps it: JSON, never a pickle."""
    problem = error.to_problem()
    return PortableWorkflowError(
        problem.detail, problem.type, problem.status, problem.model_dump(mode="json")
    )


def _is_passing(error: BaseException) -> bool:
    """Worth another try: the store or the database did not answer."""
    return isinstance(error, PortableWorkflowError) and error.code == Unavailable.status
