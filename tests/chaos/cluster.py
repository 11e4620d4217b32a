"""The service with somebody who starts dead processes again, as a container runtime does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rankpress.service.engine import migrate
from tests.end_to_end.processes import Service, wait_until

RESTART_SECONDS = 0.3


class Cluster:
    """One API process and some workers, each started again when it has ended."""

    def __init__(self, folder: Path, *, workers: int, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Faults are not the jobs' own: none may be given up for them.
        patient = {"max_attempts": "100000", "child_attempts": "100000"}
        often = {"step_seconds": "0.5"}  # so that there are steps to be cut between
        open_to_all = {"max_open_jobs": "1000", "max_requests_per_second": "0"}
        self.service = Service(folder, **patient, **often, **open_to_all, **settings)
        self.names = [f"worker-{n}" for n in range(1, workers + 1)]
        self.restarts = 0
        self.start_seconds = 0.0  # of one worker on this machine; known once it runs
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    @property
    def url(self) -> str:
        return self.service.url

    @contextmanager
    def running(self) -> Iterator[Cluster]:
        migrate(self.service.settings)
        try:
            self.service.start_api()
            started = time.monotonic()
            for name in self.names:
                self.service.start_worker(name)
            everyone = len(self.names)
            wait_until(
                lambda: self.service.ready()["live_workers"] == everyone,
                seconds=300,
                what="all workers",
            )
            self.start_seconds = (time.monotonic() - started) / everyone
            self._supervisor.start()
            yield self
        finally:
            self._stop.set()
            if self._supervisor.is_alive():
                self._supervisor.join()
            self.service.stop()

    def _supervise(self) -> None:
        while not self._stop.is_set():
            time.sleep(RESTART_SECONDS)
            service = self.service
            if service.api is not None and service.api.poll() is not None:
                service.api = service.spawn("app")
                self.restarts += 1
            for name in self.names:
                if service.workers[name].poll() is not None:
                    service.start_worker(name)
                    self.restarts += 1
