"""What is done to the service, by the names that the count at the end shows."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable

import psutil
import psycopg

from rankpress import Client
from rankpress.names import State
from tests.chaos.cluster import Cluster
from tests.end_to_end.processes import compute_processes

LONGEST_FREEZE_SECONDS = 12.0  # longer than a worker's lease lasts unproven
WORKER_STARTS_WAITED = 6.0  # some start at once, and a lease has its patience
LATEST_IN_A_JOB_SECONDS = 0.5  # so that not only a job's first stage is met
Fault = Callable[[], bool]


class Faults:
    """Each does one thing to a running cluster, and says whether it found something to do it to."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._service = cluster.service
        self._chance = chance
        self.done: Counter[str] = Counter()

    def one(self) -> None:
        """A random one; another when there was nothing to do it to."""
        kinds: dict[str, tuple[int, Fault]] = {
            "worker killed": (6, self._kill_worker),
            "compute process killed": (6, self._kill_compute),
            "API killed": (3, self._kill_api),
            "worker told to end": (2, self._end_worker),
            "worker frozen": (1, self._freeze_worker),
            "everything killed at once": (1, self._kill_all),
            "upload cut": (2, self._cut_upload),
            "download cut": (2, self._cut_download),
        }
        if self._service.settings.sqlite_path is None:
            kinds["database connections cut"] = (4, self._cut_connections)
        while True:
            weights = [weight for weight, _ in kinds.values()]
            (name,) = self._chance.choices(list(kinds), weights)
            if kinds[name][1]():
                self.done[name] += 1
                return

    def _worker(self) -> int:
        return self._service.workers[self._chance.choice(self._cluster.names)].pid

    def _kill_worker(self) -> bool:
        return _signal(self._worker(), signal.SIGKILL)

    def _end_worker(self) -> bool:
        return _signal(self._worker(), signal.SIGTERM)

    def _kill_compute(self) -> bool:
        """Waits for one: they live no longer than a job, and none while the workers start."""
        end = time.monotonic() + WORKER_STARTS_WAITED * self._cluster.start_seconds
        while time.monotonic() < end:
            found = [p for name in self._cluster.names for p in self._compute_of(name)]
            if found:
                time.sleep(self._chance.uniform(0, LATEST_IN_A_JOB_SECONDS))
                return _signal(self._chance.choice(found).pid, signal.SIGKILL)
            time.sleep(0.02)
        return False

    def _compute_of(self, name: str) -> list[psutil.Process]:
        try:
            return compute_processes(self._service.workers[name].pid)
        except psutil.NoSuchProcess:
            return []

    def _kill_api(self) -> bool:
        assert self._service.api is not None
        return _signal(self._service.api.pid, signal.SIGKILL)

    def _kill_all(self) -> bool:
        return all([self._kill_api(), *(_signal(w.pid, signal.SIGKILL) for w in self._workers())])

    def _workers(self) -> list[psutil.Popen]:
        return [self._service.workers[name] for name in self._cluster.names]

    def _freeze_worker(self) -> bool:
        pid = self._worker()
        if not _signal(pid, signal.SIGSTOP):
            return False
        time.sleep(self._chance.uniform(0.5, LONGEST_FREEZE_SECONDS))
        return _signal(pid, signal.SIGCONT)

    def _cut_connections(self) -> bool:
        url = self._service.settings.database_url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return True

    def _cut_upload(self) -> bool:
        """A caller who goes away in the middle of a body."""
        head = (
            "POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: 50000000\r\n\r\n"
        )
        try:
            with socket.create_connection(("127.0.0.1", self._service.port), 2) as connection:
                connection.sendall(head.encode() + os.urandom(3_000_000))
        except OSError:
            return False
        return True

    def _cut_download(self) -> bool:
        """A caller who reads the beginning of a result and goes."""
        try:
            with Client(self._cluster.url, timeout=2) as client:
                ended = next(client.jobs(state=State.SUCCEEDED), None)
            if ended is None:
                return False
            with socket.create_connection(("127.0.0.1", self._service.port), 2) as connection:
                path = f"/v1/jobs/{ended.id}/weights"
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                return bool(connection.recv(1000))
        except Exception:  # noqa: BLE001 - the API may be down just now: then another fault it is
            return False


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
