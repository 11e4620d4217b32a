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
    runs: int = 0  # that are under way; between two steps none of its processes is busy
    idle: list[Child] = field(default_factory=list)
    busy: set[Child] = field(default_factory=set)
    since: float = 0.0  # when the last process became idle, or the last run ended


class ChildPool:
    """A process belongs to one job and to no other, and is kept between the job's steps, and for a
    while between the runs of a job's groups.

    `on_gone(job_id)` is called when nothing here works for a job any more; no run of the job begins
    before it has returned.
    """

    def __init__(
        self,
        on_gone: Callable[[str], None] = lambda job_id: None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _OfJob] = {}
        self._on_gone = on_gone
        self._idle_seconds = idle_seconds
        self._stop = threading.Event()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def start(self) -> None:
        start_server()
        threading.Thread(target=self._evict_idle, name="idle-children", daemon=True).start()

    def begin(self, job_id: str) -> None:
        """A run of the job, or of one of its groups: its files stay until `leave` or `end`."""
        with self._lock:
            self._jobs.setdefault(job_id, _OfJob()).runs += 1

    def leave(self, job_id: str) -> None:
        """A run of a group has ended; another of the same job may be on its way."""
        with self._lock:
            self._left(job_id)

    def end(self, job_id: str) -> None:
        """The job's own run has ended: unless another still works for it, all of it goes."""
        with self._lock:
            self._left(job_id)
            self._clear(job_id)

    def take(self, job_id: str) -> Child:
        """A process for one step of a run that has begun."""
        with self._lock:
            job = self._jobs[job_id]
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
            job = self._jobs[job_id]
            job.busy.discard(child)
            if not job.runs:  # a cancelled run ends before its process does
                self._clear(job_id)

    def close(self) -> None:
        """The worker goes down, and with it every process."""
        self._stop.set()
        with self._lock:
            children = [c for job in self._jobs.values() for c in (*job.idle, *job.busy)]
        for child in children:
            child.kill()

    def _evict_idle(self) -> None:
        while not self._stop.wait(self._idle_seconds / 3):
            now = time.monotonic()
            with self._lock:
                for job_id, job in list(self._jobs.items()):
                    if not job.busy and now - job.since > self._idle_seconds:
                        self._clear(job_id)

    def _left(self, job_id: str) -> None:
        job = self._jobs[job_id]
        job.runs -= 1
        job.since = time.monotonic()

    def _clear(self, job_id: str) -> None:
        """Ends a job's idle processes; what it has on the disk goes with its last run."""
        job = self._jobs[job_id]
        for child in job.idle:
            child.kill()
        job.idle.clear()
        if not job.runs and not job.busy:
            self._on_gone(job_id)
            del self._jobs[job_id]
