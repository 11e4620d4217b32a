"""Gives the jobs of workers that died back to the queue.

Every worker and every API process looks: with one worker alone it is the API that notices, and
the job is `queued` again, not `running` for ever.
"""

from __future__ import annotations

import threading
import time

import structlog

from rankpress.errors import RankpressError
from rankpress.service.engine import Engine
from rankpress.service.lease import Leases

log = structlog.get_logger(__name__)
INTERVAL_SECONDS = 5.0


class Reaper:
    """Every five seconds: for each worker that has running jobs and no lease, its jobs go back
    to the queue, where any worker takes them up at their unfinished step. `own` is left out: what
    a worker left in its last life is its own to recover."""

    def __init__(self, engine: Engine, leases: Leases, *, own: str | None = None) -> None:
        self._engine = engine
        self._leases = leases
        self._own = own
        self._free_since: dict[str, float] = {}  # worker -> when its lease was first found free
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the round that is under way: the engine may be closed after it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            try:
                self.sweep()
            except RankpressError as error:
                # Nobody's silence counts while the database does not answer to us.
                self._free_since.clear()
                log.warning("reaper_failed", detail=error.detail)
            except Exception:
                self._free_since.clear()
                log.exception("reaper_failed")

    def sweep(self) -> None:
        """One round. Raises `Unavailable`."""
        names = self._engine.running_workers() - {self._own}
        self._free_since = {n: t for n, t in self._free_since.items() if n in names}
        for name in sorted(names):
            with self._leases.if_free(name) as free:
                if not free:
                    self._free_since.pop(name, None)
                    continue
                now = time.monotonic()
                if now - self._free_since.setdefault(name, now) < self._leases.patience_seconds:
                    continue
                count = self._engine.requeue(name)
                log.warning("worker_gone", worker=name, jobs=count)
                del self._free_since[name]
