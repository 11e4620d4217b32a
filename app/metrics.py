"""What the API measures of itself, for Prometheus. Routes are named by their template: no id and
no tenant becomes a label."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from rankpress.service.engine import Backlog

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class ApiMetrics:
    """One set per application, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route")
        self.requests = Counter(
            "rankpress_http_requests_total",
            "Requests answered",
            (*labels, "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "rankpress_http_request_seconds",
            "Seconds from the request's head to the end of its answer",
            labels,
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.received = Counter(
            "rankpress_http_received_bytes_total",
            "Bytes of request bodies",
            labels,
            registry=self.registry,
        )
        self.sent = Counter(
            "rankpress_http_sent_bytes_total",
            "Bytes of answers' bodies",
            labels,
            registry=self.registry,
        )
        self.running = Gauge(
            "rankpress_http_requests_running", "Requests being answered", registry=self.registry
        )

        self.database_up = self._gauge("database_up", "1 when the job database answered, else 0")
        self.workers = self._gauge("workers_alive", "Workers that hold their lease")
        self.queued = self._gauge("queue_jobs", "Jobs that wait for a worker")
        self.taken = self._gauge("queue_running_jobs", "Jobs that a worker has taken up")
        self.oldest = self._gauge(
            "queue_oldest_seconds", "How long the job that waits longest has waited"
        )
        self.free_bytes = self._gauge(
            "store_free_bytes", "Free bytes of the disk below a local store; NaN for a remote one"
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"rankpress_{name}", text, registry=self.registry)

    def looked(self, backlog: Backlog | None, workers: int | None, free_bytes: int | None) -> None:
        """What is the same for every API process; None where it could not be found out."""
        self.database_up.set(backlog is not None)
        if backlog is not None:
            self.queued.set(backlog.queued)
            self.taken.set(backlog.running)
            self.oldest.set(backlog.oldest_seconds)
        if workers is not None:
            self.workers.set(workers)
        self.free_bytes.set(float("nan") if free_bytes is None else free_bytes)

    def answered(
        self, scope: Scope, *, status: int, seconds: float, received: int, sent: int
    ) -> None:
        labels = (scope["method"], route_of(scope))
        self.requests.labels(*labels, str(status)).inc()
        self.seconds.labels(*labels).observe(seconds)
        self.received.labels(*labels).inc(received)
        self.sent.labels(*labels).inc(sent)

    def text(self) -> bytes:
        return generate_latest(self.registry)


def route_of(scope: Scope) -> str:
    """The template of the path; one name for all that is none of ours."""
    route = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return path if isinstance(path, str) else "other"
