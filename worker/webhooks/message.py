"""The message of a webhook: its body, its id and its signature."""

from __future__ import annotations

from datetime import UTC, datetime

from standardwebhooks import Webhook

from rankpress import __version__
from rankpress.names import State, WebhookType
from rankpress.schemas.job import Job
from rankpress.schemas.webhook import WebhookEvent
from rankpress.service.redaction import redacted

TYPES = {
    State.SUCCEEDED: WebhookType.SUCCEEDED,
    State.FAILED: WebhookType.FAILED,
    State.CANCELED: WebhookType.CANCELED,
}


def event_of(job: Job) -> WebhookEvent:
    """What is told of a job that has ended; the same whenever it is made."""
    assert job.finished_at is not None
    return WebhookEvent(type=TYPES[job.state], timestamp=job.finished_at, data=redacted(job))


def message_id(job: Job) -> str:
    """The same for every attempt, so that a receiver knows one that it has had. Without dots,
    which part the signed text."""
    return f"msg_{job.id}_{int(job.created_at.timestamp() * 1000)}"


def headers_of(secret: str, id: str, now: datetime, body: bytes) -> dict[str, str]:
    """`now` is the attempt's own time, in UTC: receivers refuse an old one as a replay."""
    assert now.tzinfo is UTC
    return {
        "Content-Type": "application/json",
        "User-Agent": f"Rankpress/{__version__}",
        "webhook-id": id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(id, now, body.decode()),
    }
