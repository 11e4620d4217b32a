"""A webhook as it is asked for: what cannot be delivered is refused at once."""

from __future__ import annotations

import base64
import binascii

from fastapi import FastAPI
from starlette.responses import Response

from rankpress.errors import InvalidRequest
from rankpress.schemas.request import Webhook
from rankpress.schemas.webhook import WebhookEvent
from rankpress.service import outgoing
from rankpress.service.settings import Settings

SECRET_PREFIX = "whsec_"  # noqa: S105
SECRET_BYTES = range(24, 65)  # Standard Webhooks


def check(webhook: Webhook | None, settings: Settings) -> None:
    """Without a name server: a host's addresses are looked up and checked when it is called.
    Raises `InvalidRequest`."""
    if webhook is None:
        return
    try:
        outgoing.check_url(webhook.url, outgoing.rules_of(settings))
    except outgoing.Refused as error:
        raise InvalidRequest.at("/webhook/url", str(error)) from error
    try:
        secret = base64.b64decode(webhook.secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if len(secret) not in SECRET_BYTES:
        raise InvalidRequest.at(
            "/webhook/secret", f"{SECRET_PREFIX} and 24 to 64 random bytes in base64 are expected"
        )


def document(app: FastAPI) -> None:
    """What receivers get, in the OpenAPI document."""

    @app.webhooks.post(
        "job-ended",
        operation_id="job_ended",
        summary="A job has ended",
        description="Signed after Standard Webhooks: webhook-id, webhook-timestamp and "
        "webhook-signature. Any 2xx takes it; 410 ends it; all else is tried again.",
        status_code=204,
        response_class=Response,
    )
    def job_ended(event: WebhookEvent) -> None: ...
