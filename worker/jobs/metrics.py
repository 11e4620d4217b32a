"""Prometheus metrics of a worker, served on a port of their own when one is set.

No ids as labels: a label's values are the few names that the code itself has.
"""

from __future__ import annotations

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
)

from rankpress.schemas.report import RankReport
from rankpress.service.settings import Settings

STAGE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


class WorkerMetrics:
    """Made once a process, by the entry point."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.stage_seconds = Histogram(
            "rankpress_stage_seconds",
            "Wall seconds of a job's stage",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self.jobs = Counter(
            "rankpress_jobs_total", "Jobs that ended here", ["outcome", "reason"], registry=registry
        )
        self.running = Gauge(
            "rankpress_jobs_running", "Jobs that this worker runs now", registry=registry
        )
        self.child_deaths = Counter(
            "rankpress_child_deaths_total",
            "Compute processes that died under a job",
            registry=registry,
        )
        self.webhooks = Counter(
            "rankpress_webhook_attempts_total",
            "Attempts to deliver a webhook",
            ["outcome"],
            registry=registry,
        )
        self.bytes = Counter(
            "rankpress_model_bytes_total",
            "Bytes of models before and after",
            ["side"],
            registry=registry,
        )
        self.parameters = Counter(
            "rankpress_model_parameters_total",
            "Parameters before and after",
            ["side"],
            registry=registry,
        )

    def serve(self, settings: Settings) -> None:
        if settings.metrics_port:
            start_http_server(settings.metrics_port, addr=settings.metrics_host)

    def succeeded(self, report: RankReport) -> None:
        self.jobs.labels("succeeded", "").inc()
        for stage, seconds in report.seconds.items():
            self.stage_seconds.labels(stage).observe(seconds)
        self.bytes.labels("before").inc(report.bytes_before)
        self.bytes.labels("after").inc(report.bytes_after)
        self.parameters.labels("before").inc(report.parameters_before)
        self.parameters.labels("after").inc(report.parameters_after)

    def failed(self, slug: str) -> None:
        self.jobs.labels("failed", slug).inc()
