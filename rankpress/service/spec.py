"""The message that API and worker share through the database: one job, as it was enqueued."""

from rankpress.schemas.base import Frozen
from rankpress.schemas.request import JobRequest
from rankpress.service.tracing import TraceContext

QUEUE = "compress"
WORKFLOW = "compress"
LAYER_QUEUE = "layers"
GROUP_WORKFLOW = "factorise_group"
WEBHOOK_QUEUE = "webhooks"
WEBHOOK_WORKFLOW = "deliver_webhook"
PROGRESS_EVENT = "progress"
# One version for all rows: which code may take a job up is decided by the queue, and a worker
# that is newer than the job reads its spec by the schema's own rules.
APPLICATION_VERSION = "1"
APPLICATION_NAME = "rankpress"


class JobSpec(Frozen):
    tenant: str
    job_id: str
    request: JobRequest
    body_sha256: str  # of the request as received: the same idempotency key must bring the same
    request_id: str | None = None  # of the HTTP request, for the logs
    trace: TraceContext | None = None  # the HTTP request's span, for the worker's
    owned_uploads: tuple[str, ...] = ()  # brought along by a one-shot submission: go with the job


class ProgressEvent(Frozen):
    stage: str
    done: int
    total: int
    started_at: float  # seconds since the epoch, when the worker took the job up


def workflow_id(tenant: str, job_id: str) -> str:
    return f"{tenant}:{job_id}"


def deliveries_prefix(tenant: str, job_id: str, created_ms: int) -> str:
    """Of the workflows that bring a job's end to its webhook. The time is the job's creation, in
    milliseconds: an idempotency key that is used again after its job was deleted makes another
    job of the same id, with an end of its own."""
    return f"{workflow_id(tenant, job_id)}:webhook:{created_ms}:"


def delivery_id(tenant: str, job_id: str, created_ms: int, attempt: int) -> str:
    """One workflow an attempt, so that one which waits holds no place in the queue."""
    return f"{deliveries_prefix(tenant, job_id, created_ms)}{attempt}"
