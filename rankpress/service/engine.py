"""The job queue: DBOS behind the few calls that the API and the operator's commands make.

The client side never imports worker code: a job is enqueued by the workflow's name. Errors come
back as the problems they were raised as; a database that cannot be reached is `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Iterator

from dbos import (
    DBOSClient,
    DBOSPortableJSONSerializer,
    EnqueueOptions,
    WorkflowStatus,
)
from dbos import error as dbos_error

from rankpress.names import Stage, State
from rankpress.schemas.job import Job, Links, Progress
from rankpress.schemas.webhook import Delivery
from rankpress.service import oversight
from rankpress.service.database import mapped, migrate, migrate_when_ready
from rankpress.service.oversight import Backlog
from rankpress.service.records import OPEN, STATES, Record, Step, iso_of, record_of, time_of
from rankpress.service.settings import Settings
from rankpress.service.spec import (
    APPLICATION_NAME,
    APPLICATION_VERSION,
    PROGRESS_EVENT,
    QUEUE,
    WEBHOOK_WORKFLOW,
    WORKFLOW,
    JobSpec,
    ProgressEvent,
    deliveries_prefix,
    workflow_id,
)

__all__ = ["Backlog", "Engine", "migrate", "migrate_when_ready"]
PAGE = 200
STEPS = 1000  # read at once


class Engine:
    """Handle of the queue. Thread-safe; every call is one or two short database queries."""

    def __init__(self, settings: Settings) -> None:
        with mapped():
            self._client = DBOSClient(
                system_database_url=settings.database_url,
                serializer=DBOSPortableJSONSerializer(),
                application_name=APPLICATION_NAME,
                retry_connection_errors=False,
            )

    def close(self) -> None:
        self._client.destroy()

    def check(self) -> None:
        """Reaches the database or raises `Unavailable`."""
        with mapped():
            self._client.list_workflows(limit=1, load_input=False, load_output=False)

    def submit(self, spec: JobSpec) -> bool:
        """Enqueues; False when a job of this id is there already."""
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "queue_name": QUEUE,
            "workflow_id": workflow_id(spec.tenant, spec.job_id),
            "workflow_id_reuse_policy": "reject",
            "app_version": APPLICATION_VERSION,
            "authenticated_user": spec.tenant,
            "priority": 1,
        }
        with mapped():
            try:
                self._client.enqueue(options, spec.model_dump(mode="json"))
            except dbos_error.DBOSWorkflowIDInUseError:
                return False
        return True

    def get(self, tenant: str, job_id: str) -> Record | None:
        with mapped():
            found = self._client.list_workflows(
                workflow_ids=[workflow_id(tenant, job_id)], name=WORKFLOW
            )
        return record_of(found[0]) if found else None

    def newest_first(
        self, tenant: str, *, state: State | None = None, before_ms: int | None = None
    ) -> Iterator[Record]:
        """A tenant's jobs, newest first, those of one millisecond in falling order of their id;
        `before_ms` (milliseconds since the epoch) is inclusive."""
        statuses = [s for s, ours in STATES.items() if state in (None, ours)]
        end = None if before_ms is None else iso_of(before_ms)
        held: list[WorkflowStatus] = []
        for offset in range(0, 2**31, PAGE):
            with mapped():
                page = self._client.list_workflows(
                    user=tenant,
                    name=WORKFLOW,
                    status=statuses,
                    end_time=end,
                    sort_desc=True,
                    limit=PAGE,
                    offset=offset,
                )
            for status in page:
                if held and held[0].created_at != status.created_at:
                    yield from _by_falling_id(held)
                    held = []
                held.append(status)
            if len(page) < PAGE:
                break
        yield from _by_falling_id(held)

    def count_open(self, tenant: str) -> int:
        """Queued and running jobs of a tenant."""
        with mapped():
            return len(
                self._client.list_workflows(
                    user=tenant,
                    name=WORKFLOW,
                    status=OPEN,
                    load_input=False,
                    load_output=False,
                )
            )

    def steps(self, tenant: str, job_id: str) -> list[str]:
        """Names of the steps that are recorded, in their order."""
        with mapped():
            steps = self._client.list_workflow_steps(workflow_id(tenant, job_id), load_output=False)
        return [s["function_name"] for s in steps]

    def steps_after(self, tenant: str, job_id: str, count: int) -> list[Step]:
        """The recorded steps with their results, in their order, without the first `count`."""
        with mapped():
            steps = self._client.list_workflow_steps(
                workflow_id(tenant, job_id), limit=STEPS, offset=count
            )
        return [Step(s["function_id"], s["function_name"], s["output"]) for s in steps]

    def cancel(self, tenant: str, job_id: str) -> None:
        with mapped():
            self._client.cancel_workflow(workflow_id(tenant, job_id), cancel_children=True)

    def delete(self, tenant: str, job_id: str) -> None:
        with mapped():
            self._client.delete_workflow(workflow_id(tenant, job_id), delete_children=True)

    def running_workers(self) -> set[str]:
        return oversight.running_workers(self._client)

    def is_run_elsewhere(self, tenant: str, job_id: str, worker: str) -> bool:
        return oversight.is_run_elsewhere(self._client, workflow_id(tenant, job_id), worker)

    def requeue(self, worker: str) -> int:
        return oversight.requeue(self._client, worker)

    def backlog(self) -> Backlog:
        return oversight.backlog(self._client)

    def progress(self, record: Record) -> ProgressEvent | None:
        """The last progress that the worker noted, None before the first."""
        with mapped():
            event = self._client.get_event(
                workflow_id(record.spec.tenant, record.spec.job_id), PROGRESS_EVENT, 0
            )
        return None if event is None else ProgressEvent.model_validate(event)

    def deliveries(self, record: Record) -> tuple[Delivery, ...]:
        """The attempts that were made to tell the job's webhook of its end, in their order."""
        prefix = deliveries_prefix(record.spec.tenant, record.spec.job_id, record.created_ms)
        with mapped():
            rows = self._client.list_workflows(
                workflow_id_prefix=prefix, name=WEBHOOK_WORKFLOW, status="SUCCESS", load_input=False
            )
        made = [
            Delivery.model_validate(row.output)
            for row in rows
            if row.output and row.workflow_id.startswith(prefix)
        ]
        return tuple(sorted(made, key=lambda d: d.attempt))

    def job(self, record: Record) -> Job:
        """The record as the caller sees it."""
        progress = None if record.state is State.QUEUED else self.progress(record)
        base = f"/v1/jobs/{record.spec.job_id}"
        succeeded = record.state is State.SUCCEEDED
        return Job(
            id=record.spec.job_id,
            state=record.state,
            stage=Stage(progress.stage) if progress else None,
            progress=Progress(done=progress.done, total=progress.total) if progress else Progress(),
            created_at=time_of(record.created_ms),
            started_at=None if record.started_ms is None else time_of(record.started_ms),
            finished_at=None if record.finished_ms is None else time_of(record.finished_ms),
            request=record.spec.request,
            error=record.error,
            links=Links(
                self=base,
                cancel=None if record.state.terminal else f"{base}/cancel",
                report=f"{base}/report" if succeeded else None,
                weights=f"{base}/weights" if succeeded else None,
            ),
        )


def _by_falling_id(statuses: list[WorkflowStatus]) -> Iterator[Record]:
    for status in sorted(statuses, key=lambda s: s.workflow_id, reverse=True):
        yield record_of(status)
