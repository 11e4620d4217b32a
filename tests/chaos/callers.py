"""Callers who want their models compressed, whatever happens to the service."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rankpress import Client
from rankpress.client import RetryPolicy

PATIENT = RetryPolicy(attempts=200, base_seconds=0.2, cap_seconds=2.0, retry_after_cap_seconds=2.0)
JOB_SECONDS = 1800.0  # a guard: whoever waits longer has lost a job
# Layers, rows, columns. A middle one takes longer than the pause between two faults.
SMALL, MIDDLE = (6, 96, 64), (10, 1300, 1000)


@dataclass(frozen=True)
class Order:
    """A model and what is wanted of it; the same order gives the same bytes, every time."""

    model: Path
    fields: dict[str, Any]


@dataclass(frozen=True)
class Result:
    job_id: str
    order: int
    sha256: str
    size_bytes: int


def orders(folder: Path) -> list[Order]:
    """Small and middle models under different rules."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    made = []
    for name, (layers, rows, columns) in {"small": SMALL, "middle": MIDDLE}.items():
        path = folder / f"{name}.safetensors"
        save_file(
            {
                f"layers.{i:02d}.weight": torch.randn(rows, columns, generator=generator)
                for i in range(layers)
            },
            path,
        )
        for rule, threshold in (("ratio", 0.3), ("energy", 0.5)):
            fields = {"rule": rule, "threshold": threshold, "protect_output": False}
            made.append(Order(path, fields))
    return made


def carry_out(client: Client, order: Order, number: int, key: str, into: Path) -> Result:
    """Upload to download, and what came of it by the downloaded bytes themselves. The job is
    submitted twice under one key, as a caller does whose first answer was lost."""
    upload = client.upload(order.model)
    job = client.submit(model=upload.id, idempotency_key=key, **order.fields)
    again = client.submit(model=upload.id, idempotency_key=key, **order.fields)
    assert again.id == job.id, f"one key made two jobs: {job.id}, {again.id}"
    client.wait(job.id, timeout=JOB_SECONDS)
    path = into / f"{key}.safetensors"
    client.download(job.id, path)
    data = path.read_bytes()
    path.unlink()
    sha256 = hashlib.sha256(data).hexdigest()
    assert client.report(job.id).output_sha256 == sha256, f"{job.id}: report and bytes disagree"
    return Result(job.id, number, sha256, len(data))


@dataclass
class Callers:
    """Some at once; each takes the next job when `may_start` lets it."""

    url: str
    orders: list[Order]
    jobs: int
    folder: Path
    may_start: Callable[[int], bool]
    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, count: int) -> list[threading.Thread]:
        self.folder.mkdir(parents=True, exist_ok=True)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    def _work(self) -> None:
        with Client(self.url, retry=PATIENT, timeout=60) as client:
            while (number := self._take()) is not None:
                at = number % len(self.orders)
                try:
                    found = carry_out(client, self.orders[at], at, f"chaos-{number}", self.folder)
                except Exception as error:  # noqa: BLE001 - counted, and shown at the end
                    self.failures.append(f"job {number}: {type(error).__name__}: {error}")
                else:
                    self.results.append(found)

    def _take(self) -> int | None:
        with self._lock:
            number = self._next
            if number >= self.jobs:
                return None
            self._next += 1
        pause = threading.Event()
        while not self.may_start(number):
            pause.wait(0.1)
        return number
