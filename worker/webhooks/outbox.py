"""Finds the jobs that ended and wanted to tell somebody, however they ended.

A job succeeds or fails in a worker, is canceled by the API, or is given up by the queue: all that
these have in common is the job's row. So the rows are looked through, and nothing that crashes
between a job's end and a message can lose the message. Every worker does this; the fixed ids of
the deliveries make it once.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from datetime import UTC, datetime

import structlog
from dbos import DBOS, SetEnqueueOptions, SetWorkflowID, WorkflowStatus

from rankpress.service.spec import WEBHOOK_QUEUE, WORKFLOW, JobSpec, delivery_id
from worker.webhooks.delivery import DeliveryWorkflow

log = structlog.get_logger(__name__)
INTERVAL_SECONDS = 1.0
# A row's end may become visible after another's that is younger: a transaction, a clock.
OVERLAP_MS = 10 * 60 * 1000
PAGE = 100
ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
Seen = tuple[str, int | None]


class Outbox:
    """Looks at every ended job once after the start, then at those that end."""

    def __init__(self, workflow: DeliveryWorkflow) -> None:
        self._workflow = workflow
        self._since_ms = 0
        self._seen: dict[Seen, int] = {}  # within the overlap, with the time of its end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="outbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            try:
                self.sweep()
            except Exception:
                # The database is away: the next round finds the same rows.
                log.exception("outbox_failed")

    def sweep(self) -> int:
        """One round; returns how many deliveries were begun."""
        ended = DBOS.list_workflows(
            name=WORKFLOW,
            status=ENDED,
            completed_after=datetime.fromtimestamp(self._since_ms / 1000, UTC).isoformat(),
            load_input=False,
            load_output=False,
        )
        fresh = [w for w in ended if _key(w) not in self._seen]
        begun = sum(self._begin(page) for page in _pages(w.workflow_id for w in fresh))
        # Only now: what failed above is looked at again.
        self._seen |= {_key(w): w.completed_at or 0 for w in fresh}
        newest = max(self._seen.values(), default=0)
        # Never ahead of the clock: it may have been set back since the newest ended.
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        self._since_ms = min(max(self._since_ms, newest - OVERLAP_MS), max(0, now_ms - OVERLAP_MS))
        self._seen = {k: at for k, at in self._seen.items() if at >= self._since_ms}
        return begun

    def _begin(self, ids: list[str]) -> int:
        wanted: dict[str, tuple[str, str, int]] = {}
        for row in DBOS.list_workflows(workflow_ids=ids, load_output=False):
            if row.input is None or row.created_at is None:
                continue
            spec = JobSpec.model_validate(row.input["args"][0])
            if spec.request.webhook is not None:
                end = (spec.tenant, spec.job_id, row.created_at)
                wanted[delivery_id(*end, 1)] = end
        if wanted:
            there = DBOS.list_workflows(
                workflow_ids=list(wanted), load_input=False, load_output=False
            )
            for row in there:
                del wanted[row.workflow_id]
        for id, end in wanted.items():
            with SetWorkflowID(id), SetEnqueueOptions(priority=1):
                DBOS.enqueue_workflow(WEBHOOK_QUEUE, self._workflow, *end, 1)
        return len(wanted)


def _key(row: WorkflowStatus) -> Seen:
    return (row.workflow_id, row.created_at)


def _pages(ids: Iterable[str]) -> Iterable[list[str]]:
    rest = iter(ids)
    while page := list(itertools.islice(rest, PAGE)):
        yield page
