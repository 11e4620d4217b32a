"""A fuzz run against a running service, and what must hold of it at any time and at its end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from tests.end_to_end.processes import Service, wait_until

REQUESTS: tuple[dict[str, Any], ...] = (
    {"threshold": 0.9},
    {"threshold": 1.0, "protect_output": False},
    {"threshold": 0.5, "rule": "ratio", "output": {"layout": "dense"}},
    {"threshold": 0.9, "output": {"format": "safetensors"}},
    {"threshold": 0.9, "output": {"format": "torch", "drop_optimizer": True}},
    {"threshold": 0.9, "weights_path": "model"},
)
OPEN_JOBS = 50
# What worker and API log when something happens that no input may bring about.
FAULTS = ("step_failed", "child_died", "unhandled", "internal-error")


@dataclass
class Count:
    """How the inputs ended."""

    inputs: int = 0
    refused: int = 0
    taken: int = 0
    succeeded: int = 0
    failed: int = 0
    problems: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        slugs = ", ".join(f"{slug} {n}" for slug, n in self.problems.most_common())
        return (
            f"{self.inputs} inputs: {self.refused} refused at the upload, {self.taken} taken; "
            f"jobs: {self.succeeded} succeeded, {self.failed} failed with a 4xx problem; {slugs}"
        )


class Campaign:
    """Every file is uploaded; what passes becomes a job. Raises `AssertionError` with the seed's
    input when the service answers with a 5xx or a job fails by a fault of the worker."""

    def __init__(self, service: Service, seed: int) -> None:
        self._service = service
        self._source = random.Random(seed)
        self._http = httpx.Client(base_url=service.url, timeout=120)
        self._open: list[tuple[str, str, str]] = []  # job, upload, maker
        self.count = Count()
        assert service.api is not None
        self._pids = {"api": service.api.pid, **{n: w.pid for n, w in service.workers.items()}}

    def run(self, inputs: Iterable[tuple[str, bytes]], tell: Callable[[Count], None]) -> Count:
        with self._http:
            for maker, data in inputs:
                self._one(maker, data)
                if len(self._open) >= OPEN_JOBS:
                    self._settle()
                if self.count.inputs % 500 == 0:
                    tell(self.count)
            self._settle()
            self._check_end()
        return self.count

    def _one(self, maker: str, data: bytes) -> None:
        self.count.inputs += 1
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._http.post("/v1/uploads", content=data, headers=headers)
        about = f"input {self.count.inputs} ({maker}): {answer.status_code} {answer.text[:500]}"
        if answer.status_code != 201:
            assert answer.status_code in (413, 422), about
            assert answer.json()["detail"], about
            self.count.refused += 1
            self.count.problems[answer.json()["type"].rpartition(":")[2]] += 1
            return
        self.count.taken += 1
        upload = answer.json()["id"]
        request = {**self._source.choice(REQUESTS), "model": upload}
        submitted = self._http.post("/v1/jobs", json=request)
        about = f"{about}; {submitted.status_code} {submitted.text[:500]}"
        if submitted.status_code == 202:
            self._open.append((submitted.json()["id"], upload, about))
            return
        assert submitted.status_code == 422, about
        self.count.problems[submitted.json()["type"].rpartition(":")[2]] += 1
        self._delete(f"/v1/uploads/{upload}")

    def _settle(self) -> None:
        for job_id, upload, about in self._open:
            job = self._ended(job_id)
            if job["state"] == "succeeded":
                self.count.succeeded += 1
                assert self._http.get(f"/v1/jobs/{job_id}/weights").status_code == 200, about
            else:
                assert job["state"] == "failed", about
                assert 400 <= job["error"]["status"] < 500, f"{about}; {job['error']}"
                self.count.failed += 1
                self.count.problems[job["error"]["type"].rpartition(":")[2]] += 1
            self._delete(f"/v1/jobs/{job_id}")
            self._delete(f"/v1/uploads/{upload}")
        self._open.clear()

    def _ended(self, job_id: str) -> dict[str, Any]:
        def ask() -> dict[str, Any] | None:
            answer = self._http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=20"})
            assert answer.status_code == 200, answer.text
            job: dict[str, Any] = answer.json()
            return job if job["state"] in ("succeeded", "failed", "canceled") else None

        found: dict[str, Any] = wait_until(ask, seconds=600, what="a job's end")
        return found

    def _delete(self, path: str) -> None:
        answer = self._http.delete(path)
        assert answer.status_code == 204, f"{path}: {answer.status_code} {answer.text}"

    def _check_end(self) -> None:
        """Nobody died, nothing is left, and the log has no trace of a fault."""
        for name, pid in self._pids.items():
            assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE, f"{name} has died"
        assert self._http.get("/readyz").status_code == 200
        wait_until(lambda: not self._service.stored(), what=f"{self._service.stored()} to go")
        scratch = self._service.settings.scratch_dir
        wait_until(
            lambda: not [p for p in scratch.glob("*/*/**/*") if p.is_file()],
            what="the scratch files to go",
        )
        log = (self._service.settings.data_dir / "processes.log").read_text("utf-8", "replace")
        for event in FAULTS:
            assert event not in log, log[max(0, log.index(event) - 4000) :][:6000]
