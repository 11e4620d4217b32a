"""One attempt to deliver a job's end, as a durable workflow of its own.

The next attempt is another workflow, enqueued with a delay: it survives a restart, and one that
waits for hours holds no place in the queue. An attempt that is cut off by a crash is made again,
under the same message id.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from dbos import DBOS, SetEnqueueOptions, SetWorkflowID

from rankpress.names import DeliveryOutcome
from rankpress.schemas.webhook import Delivery
from rankpress.service import outgoing
from rankpress.service.engine import Engine
from rankpress.service.records import Record
from rankpress.service.settings import Settings
from rankpress.service.spec import WEBHOOK_QUEUE, delivery_id
from worker.jobs.metrics import WorkerMetrics
from worker.webhooks import backoff
from worker.webhooks.message import event_of, headers_of, message_id

log = structlog.get_logger(__name__)
GONE = 410
# Of the step, against a database that is away: about half an hour. The receiver's failures are
# no errors here.
STEP_ATTEMPTS = 12


class DeliveryWorkflow(Protocol):
    async def __call__(
        self, tenant: str, job_id: str, created_ms: int, attempt: int
    ) -> dict[str, Any]: ...


class Courier:
    """Makes attempts. `resolve` is the system's unless given."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        metrics: WorkerMetrics,
        resolve: outgoing.Resolve | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._resolve = resolve
        self._rules = outgoing.rules_of(settings)

    async def run(
        self, workflow: DeliveryWorkflow, tenant: str, job_id: str, created_ms: int, attempt: int
    ) -> dict[str, Any]:
        """The workflow: one recorded attempt, and the next one enqueued if there is to be one."""

        async def once() -> dict[str, Any] | None:
            record = await asyncio.to_thread(self._engine.get, tenant, job_id)
            if record is None or record.created_ms != created_ms:
                return None  # deleted, and its secret with it
            return (await self.attempt(record, attempt)).model_dump(mode="json")

        found = await DBOS.run_step_async(
            {
                "name": "attempt",
                "retries_allowed": True,
                "max_attempts": STEP_ATTEMPTS,
                "interval_seconds": 1.0,
                "backoff_rate": 2.0,
            },
            once,
        )
        if found is None:
            log.info("webhook_dropped", job_id=job_id, attempt=attempt)
            return {}
        made = Delivery.model_validate(found)
        if made.next_in_seconds is not None:
            following = attempt + 1
            with (
                SetWorkflowID(delivery_id(tenant, job_id, created_ms, following)),
                # First attempts go before those that have failed already.
                SetEnqueueOptions(priority=following, delay_seconds=made.next_in_seconds),
            ):
                await DBOS.enqueue_workflow_async(
                    WEBHOOK_QUEUE, workflow, tenant, job_id, created_ms, following
                )
        return found

    async def attempt(self, record: Record, attempt: int) -> Delivery:
        """Posts once. Never raises for what the receiver does."""
        webhook = record.spec.request.webhook
        assert webhook is not None
        job = await asyncio.to_thread(self._engine.job, record)
        body = event_of(job).model_dump_json().encode()
        now = datetime.now(UTC)
        headers = headers_of(webhook.secret, message_id(job), now, body)
        answer = None
        try:
            answer = await outgoing.post(
                webhook.url, body=body, headers=headers, rules=self._rules, resolve=self._resolve
            )
            outcome, detail = _judge(answer.status)
        except outgoing.Refused as error:
            outcome, detail = DeliveryOutcome.REFUSED, str(error)
        except outgoing.Unanswered as error:
            outcome, detail = DeliveryOutcome.RETRYING, str(error)
        pause = None
        if outcome is DeliveryOutcome.RETRYING:
            if attempt < self._settings.webhook_attempts:
                asked = answer.headers.get("retry-after") if answer else None
                first = self._settings.webhook_first_retry_seconds
                wait = backoff.parse_retry_after(asked, now)
                pause = backoff.delay(attempt, first, wait, backoff.roll())
            else:
                outcome = DeliveryOutcome.GIVEN_UP
        self._metrics.webhooks.labels(outcome).inc()
        log.info(
            "webhook_attempt",  # neither URL nor host: a URL may hold a token
            job_id=job.id,
            attempt=attempt,
            outcome=outcome,
            status=answer.status if answer else None,
            detail=detail,
        )
        return Delivery(
            attempt=attempt,
            at=now,
            outcome=outcome,
            status=answer.status if answer else None,
            detail=detail,
            next_in_seconds=pause,
        )


def _judge(status: int) -> tuple[DeliveryOutcome, str]:
    if 200 <= status < 300:
        return DeliveryOutcome.DELIVERED, "the receiver took it"
    if status == GONE:
        return DeliveryOutcome.GONE, "the receiver wants no more of them"
    if 300 <= status < 400:
        return DeliveryOutcome.RETRYING, "the receiver sent a redirect, which is not followed"
    return DeliveryOutcome.RETRYING, "the receiver did not take it"
