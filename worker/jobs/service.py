"""The worker process: takes jobs from the queue until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import Any

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer

import rankpress
from rankpress.service.engine import Engine, migrate_when_ready
from rankpress.service.lease import Leases, leases, scratch_leases
from rankpress.service.reaper import Reaper
from rankpress.service.settings import Settings
from rankpress.service.spec import (
    APPLICATION_NAME,
    APPLICATION_VERSION,
    GROUP_WORKFLOW,
    LAYER_QUEUE,
    QUEUE,
    WEBHOOK_QUEUE,
    WEBHOOK_WORKFLOW,
    WORKFLOW,
)
from rankpress.service.store import Store
from rankpress.service.tracing import tracing_of
from worker.child.pool import ChildPool
from worker.jobs.fanout import Fanout, factorise_group
from worker.jobs.heartbeat import Heartbeat
from worker.jobs.jobfiles import remove_scratch_of
from worker.jobs.metrics import WorkerMetrics
from worker.jobs.retention import Retention
from worker.jobs.run import Resources
from worker.webhooks.delivery import Courier, DeliveryWorkflow
from worker.webhooks.outbox import Outbox
from worker.workflow import compress

log = structlog.get_logger(__name__)
NAME_ATTEMPTS = 10
WEBHOOKS_AT_ONCE = 16
# A worker that hands out no layers looks less often for those of others: each look costs processor
# time, and an idle worker does nothing else.
OTHERS_LAYERS_POLL_SECONDS = 1.0
WEBHOOK_POLL_SECONDS = 0.5
# A delivery is harmless: it is taken up again however often its worker died under it.
WEBHOOK_RECOVERIES = 1000
EXIT_NAME_TAKEN = 69


def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. A running job is left where it is: its finished steps are
    recorded, and it goes on when a worker of this name is back."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    migrate_when_ready(settings)
    held, on_this_disk = leases(settings), scratch_leases(settings)
    for place in (held, on_this_disk):
        _take_name(settings, place)
    store = Store(settings.store_url)
    metrics = WorkerMetrics()
    metrics.serve(settings)
    tracing = tracing_of(
        os.environ,
        service="rankpress-worker",
        version=rankpress.__version__,
        instance=settings.worker_name,
    )
    pool = ChildPool(on_gone=lambda job_id: remove_scratch_of(settings, job_id))
    pool.start()
    heartbeat = Heartbeat(settings)
    engine = Engine(settings)
    reaper = Reaper(engine, held, own=settings.worker_name)
    retention = Retention(settings, store, held, on_this_disk)
    DBOS(config=_config(settings))
    resources = Resources(settings, store, engine, pool, metrics, tracing)
    deliver = _register(resources, Courier(settings, engine, metrics))
    outbox = Outbox(deliver)
    DBOS.launch()
    often = settings.queue_poll_seconds
    seldom = often if settings.fan_out else max(often, OTHERS_LAYERS_POLL_SECONDS)
    for queue, seconds in ((QUEUE, often), (LAYER_QUEUE, seldom)):
        DBOS.register_queue(
            queue,
            worker_concurrency=settings.worker_concurrency,
            polling_interval_sec=seconds,
        )
    DBOS.register_queue(
        WEBHOOK_QUEUE,
        worker_concurrency=WEBHOOKS_AT_ONCE,
        polling_interval_sec=WEBHOOK_POLL_SECONDS,
    )
    heartbeat.start()
    reaper.start()
    retention.start()
    outbox.start()
    log.info("worker_ready", worker=settings.worker_name)
    stop.wait()
    log.info("worker_stopping", worker=settings.worker_name)
    reaper.stop()
    retention.stop()
    outbox.stop()
    pool.close()
    heartbeat.stop()
    tracing.close()
    # Not DBOS.destroy(): it would wait for the job, whose steps are safe in the database already.
    logging.shutdown()
    os._exit(0)


def _register(resources: Resources, courier: Courier) -> DeliveryWorkflow:
    """The workflows, under the names that they are enqueued by. Returns the webhooks' own."""
    attempts = resources.settings.max_attempts

    @DBOS.workflow(name=GROUP_WORKFLOW, max_recovery_attempts=attempts)
    async def group(raw: dict[str, Any], group: int, names: list[str]) -> dict[str, Any]:
        return await factorise_group(resources, raw, group, names)

    fanout = Fanout(resources.settings, group)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=attempts)
    async def whole(raw: dict[str, Any]) -> dict[str, Any]:
        return await compress(resources, fanout, raw)

    @DBOS.workflow(name=WEBHOOK_WORKFLOW, max_recovery_attempts=WEBHOOK_RECOVERIES)
    async def deliver(tenant: str, job_id: str, created_ms: int, attempt: int) -> dict[str, Any]:
        return await courier.run(deliver, tenant, job_id, created_ms, attempt)

    DBOS.listen_queues([QUEUE, LAYER_QUEUE, WEBHOOK_QUEUE])
    return deliver


def _take_name(settings: Settings, held: Leases) -> None:
    """Waits a moment: another worker's reaper may be holding the name of our last life."""
    for attempt in range(NAME_ATTEMPTS):
        if held.acquire(settings.worker_name):
            return
        if attempt < NAME_ATTEMPTS - 1:
            time.sleep(0.5)
    log.error(
        "worker_name_taken",
        worker=settings.worker_name,
        hint="a live worker has this name; set RANKPRESS_WORKER_NAME to another",
    )
    sys.exit(EXIT_NAME_TAKEN)


def _config(settings: Settings) -> DBOSConfig:
    return {
        "name": APPLICATION_NAME,
        "system_database_url": settings.database_url,
        "application_version": APPLICATION_VERSION,
        "executor_id": settings.worker_name,
        "serializer": DBOSPortableJSONSerializer(),
        "run_migrations": False,
        "notification_listener_polling_interval_sec": 0.5,
        "log_level": settings.log_level.upper(),
    }
