"""Callers who submit, look and upload, and note how long each call took."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx

PERCENTILES = (0.5, 0.99, 1.0)
LOOK_PAUSE_SECONDS = 0.25


@dataclass
class Timings:
    """Seconds of every call, by what it was."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(
        self, what: str, client: httpx.Client, method: str, path: str, **rest: object
    ) -> object:
        started = time.perf_counter()
        try:
            answer = client.request(method, path, **rest)  # type: ignore[arg-type]
            answer.raise_for_status()
        except httpx.HTTPError as error:
            with self._lock:
                self.errors.append(f"{what}: {type(error).__name__}: {error}")
            raise
        with self._lock:
            self.seconds[what].append(time.perf_counter() - started)
        return answer.json()

    def percentiles(self, what: str) -> tuple[float, ...]:
        """p50, p99 and the longest, by the nearest rank."""
        ordered = sorted(self.seconds[what])
        return tuple(ordered[min(len(ordered) - 1, int(p * len(ordered)))] for p in PERCENTILES)


@dataclass
class Caller:
    """One of many: submits its jobs one after the other, and looks at them until told to stop."""

    url: str
    model_id: str
    jobs: int
    timings: Timings
    stop: threading.Event
    seed: int
    job_ids: list[str] = field(default_factory=list)

    def run(self) -> None:
        chance = random.Random(self.seed)
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            for _ in range(self.jobs):
                body = {"model": self.model_id, "threshold": 0.3, "rule": "ratio"}
                found = self.timings.call("submit", client, "POST", "/v1/jobs", json=body)
                assert isinstance(found, dict)
                self.job_ids.append(found["id"])
            while not self.stop.wait(LOOK_PAUSE_SECONDS * chance.uniform(0.5, 1.5)):
                path = f"/v1/jobs/{chance.choice(self.job_ids)}"
                self.timings.call("status", client, "GET", path)


@dataclass
class Uploader:
    """Sends the same file again and again."""

    url: str
    file: Path
    timings: Timings
    stop: threading.Event
    uploads: int = 0

    def run(self) -> None:
        data = self.file.read_bytes()
        headers = {"Content-Type": "application/octet-stream"}
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            while not self.stop.is_set():
                rest = {"content": data, "headers": headers}
                found = self.timings.call("upload", client, "POST", "/v1/uploads", **rest)
                assert isinstance(found, dict)
                client.delete(f"/v1/uploads/{found['id']}").raise_for_status()
                self.uploads += 1
