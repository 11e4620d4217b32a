"""The service as real processes, so that tests can kill them as a power cut would."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from rankpress.service.engine import migrate
from rankpress.service.localfiles import below
from rankpress.service.settings import Settings

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    check: Callable[[], Any], *, seconds: float = 60.0, what: str = "the condition"
) -> Any:
    """The first true answer of `check`. Fails loudly when there is none in time: a guard against
    hanging for ever, not a measurement."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def compute_processes(worker: int) -> list[psutil.Process]:
    """Of the worker of this process id. Its own children are the fork server and its tracker;
    theirs are the compute."""
    found = []
    for process in psutil.Process(worker).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended, or a zombie until it is waited for
            if process.ppid() != worker:
                found.append(process)
    return found


class Service:
    """An API process and workers on one data folder."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "RANKPRESS_DATA_DIR": str(data_dir),
            "RANKPRESS_PORT": str(self.port),
            **{f"RANKPRESS_{k.upper()}": v for k, v in settings.items()},
        }
        self.settings = Settings(
            data_dir=data_dir, **{k: v for k, v in settings.items() if k in Settings.model_fields}
        )
        self.log = (data_dir / "processes.log").open("ab")
        self.api: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    def start_api(self) -> None:
        migrate(self.settings)
        self.api = self.spawn("app")
        wait_until(self._ready, what="readiness")

    def start_worker(
        self, name: str = "worker-1", *, key: str | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        worker = self.spawn("worker", RANKPRESS_WORKER_NAME=name, **environment)
        self.workers[key or name] = worker
        return worker

    def kill_worker(self, name: str = "worker-1") -> None:
        worker = self.workers.pop(name)
        worker.send_signal(signal.SIGKILL)
        worker.wait()

    def stop(self) -> None:
        for process in (*self.workers.values(), self.api):
            if process is not None and process.poll() is None:
                process.terminate()
        for process in (*self.workers.values(), self.api):
            if process is not None:
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.log.close()

    def ready(self) -> dict[str, Any]:
        """What readiness says."""
        return dict(httpx.get(f"{self.url}/readyz", timeout=10).json())

    def stored(self) -> list[str]:
        """Every file below the local store."""
        root = self.settings.data_dir / "store"
        return sorted(str(path.relative_to(root)) for path in below(root))

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def spawn(self, module: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=self.log,
            stderr=self.log,
        )


@contextlib.contextmanager
def running(data_dir: Path, **settings: str) -> Iterator[Service]:
    """The API and one worker, stopped at the end."""
    service = Service(data_dir, **settings)
    try:
        service.start_api()
        service.start_worker()
        yield service
    finally:
        service.stop()
