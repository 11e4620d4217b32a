"""What concerns the jobs of all callers: whose worker is gone, how long the queue is."""

from __future__ import annotations

import time
from typing import NamedTuple

import sqlalchemy as sa
from dbos import DBOSClient
from dbos._utils import INTERNAL_QUEUE_NAME

from rankpress.names import State
from rankpress.service.database import mapped
from rankpress.service.records import OPEN, STATES
from rankpress.service.spec import APPLICATION_VERSION, WORKFLOW


class Backlog(NamedTuple):
    """Jobs that have not ended, and for how many seconds the oldest has waited for a worker."""

    queued: int
    running: int
    oldest_seconds: float


def running_workers(client: DBOSClient) -> set[str]:
    """Names of the workers that have taken jobs up and not ended them, alive or not."""
    with mapped():
        running = client.list_workflows(status="PENDING", load_input=False, load_output=False)
    return {w.executor_id for w in running if w.executor_id}


def is_run_elsewhere(client: DBOSClient, workflow: str, worker: str) -> bool:
    """Whether the job waits for a worker, or another than this one has taken it up."""
    with mapped():
        found = client.list_workflows(workflow_ids=[workflow], load_input=False, load_output=False)
    if not found or found[0].status not in OPEN:
        return False
    return found[0].status != "PENDING" or found[0].executor_id != worker


def requeue(client: DBOSClient, worker: str) -> int:
    """Gives the running workflows of a worker that is gone back to their queues; their number.
    One that another worker has taken up since is left to it."""
    with mapped():
        database = client._sys_db
        left = database.get_pending_workflows(worker, APPLICATION_VERSION)
        return sum(
            database.reenqueue_for_recovery(w.workflow_id, [worker], INTERNAL_QUEUE_NAME)
            for w in left
        )


def backlog(client: DBOSClient) -> Backlog:
    """Of all callers together."""
    database = client._sys_db
    table = database.tables.workflow_status
    query = (
        sa.select(table.c.status, sa.func.count(), sa.func.min(table.c.created_at))
        .where(table.c.name == WORKFLOW, table.c.status.in_(OPEN))
        .group_by(table.c.status)
    )
    with mapped(), database.engine.connect() as connection:
        rows = connection.execute(query).all()
    waiting = [row for row in rows if STATES[row[0]] is State.QUEUED]
    queued, oldest = sum(row[1] for row in waiting), min((r[2] for r in waiting), default=None)
    age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
    return Backlog(queued, sum(row[1] for row in rows) - queued, age)
