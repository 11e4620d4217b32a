"""A job without what only its caller may know."""

from __future__ import annotations

from rankpress.schemas.job import Job
from rankpress.schemas.request import JobRequest

# A valid secret by the schema's pattern, so that a client can read the job it gets.
REDACTED_SECRET = "whsec_redacted"  # noqa: S105


def without_secret(request: JobRequest) -> JobRequest:
    if request.webhook is None:
        return request
    webhook = request.webhook.model_copy(update={"secret": REDACTED_SECRET})
    return request.model_copy(update={"webhook": webhook})


def redacted(job: Job) -> Job:
    """The webhook's secret is the caller's to know; no answer and no message repeats it."""
    return job.model_copy(update={"request": without_secret(job.request)})
