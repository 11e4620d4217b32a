"""The compute processes of a worker, by the job that they work for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.child.process import Child, start_server

IDLE_SECONDS = 15.0


@dataclass
class _OfJob:
    idle: list[Child] = field(default_factory=list)
    busy: set[Child] = field(default_factory=set)
    since: float = 0.0  # when the last one became idle


class ChildPool:
    """A process belongs to one job and to no other, and is kept between the job's steps.

    `on_idle(job_id)` is called when a job's last process here has been given up.
    """

    def __init__(self, on_idle: Callable[[str], None] = lambda job_id: None) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _OfJob] = {}
        self._on_idle = on_idle
        self._stop = threading.Event()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def start(self) -> None:
        start_server()
        threading.Thread(target=self._evict_idle, name="idle-children", daemon=True).start()

    def take(self, job_id: str) -> Child:
        """A process for one step of a job."""
        with self._lock:
            job = self._jobs.setdefault(job_id, _OfJob())
            child = job.idle.pop() if job.idle else Child()
            job.busy.add(child)
        return child

    def give_back(self, job_id: str, child: Child) -> None:
        """After a step that ended well: the job's next step finds its files opened."""
        with self._lock:
            job = self._jobs[job_id]
            job.busy.discard(child)
            job.idle.append(child)
            job.since = time.monotonic()

    def give_up(self, job_id: str, child: Child) -> None:
        """After a step that was cancelled, or whose process died."""
        child.kill()
        with self._lock:
            if job_id in self._jobs:
                self._jobs[job_id].busy.discard(child)

    def end(self, job_id: str) -> None:
        """The job has ended: its idle processes go."""
        with self._lock:
            job = self._jobs.get(job_id)
            children = job.idle if job else []
            if job:
                job.idle = []
                if not job.busy:
                    del self._jobs[job_id]
        for child in children:
            child.kill()

    def close(self) -> None:
        """The worker goes down, and with it every process."""
        self._stop.set()
        with self._lock:
            children = [c for job in self._jobs.values() for c in (*job.idle, *job.busy)]
        for child in children:
            child.kill()

    def _evict_idle(self) -> None:
        while not self._stop.wait(IDLE_SECONDS / 3):
            now = time.monotonic()
            with self._lock:
                old = [
                    job_id
                    for job_id, job in self._jobs.items()
                    if not job.busy and now - job.since > IDLE_SECONDS
                ]
            for job_id in old:
                self.end(job_id)
                self._on_idle(job_id)
