"""What a webhook carries, and how its deliveries went."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from rankpress.names import DeliveryOutcome, WebhookType
from rankpress.schemas.base import Frozen
from rankpress.schemas.job import Job


class WebhookEvent(Frozen):
    """The body that is posted and signed (Standard Webhooks)."""

    type: WebhookType
    timestamp: datetime = Field(description="When the job ended")
    data: Job = Field(description="The job, without the webhook's secret")


class Delivery(Frozen):
    """One attempt to bring an event to its receiver."""

    attempt: int = Field(ge=1, description="From 1")
    at: datetime = Field(description="When it began")
    outcome: DeliveryOutcome
    status: int | None = Field(
        default=None, description="The receiver's HTTP status, if it sent one"
    )
    detail: str = Field(description="What happened, in a few words")
    next_in_seconds: float | None = Field(
        default=None, description="Seconds until the next attempt; null when there is none"
    )


class DeliveryPage(Frozen):
    items: tuple[Delivery, ...]
