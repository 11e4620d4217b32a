"""What a job costs beyond its compute, and how many small ones get through in a minute."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Summary, summary
from benchmarks.service import serving
from benchmarks.transfers import model_file
from rankpress.client import Client
from rankpress.schemas.request import JobRequest

SMALL_BYTES = 10**6
THRESHOLD = 0.5  # low enough that every layer of a random model is factorised


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """From submit to result, less the seconds that the stages computed."""

    size_bytes: int
    jobs: int
    whole_seconds: Summary
    compute_seconds: Summary
    overhead_seconds: Summary
    share_of_compute: Summary


@dataclass(frozen=True, kw_only=True)
class Throughput:
    workers: int
    jobs: int
    per_minute: float


def overhead(size_bytes: int, *, jobs: int) -> Overhead:
    """One after the other; a first job warms up when there are several."""
    with TemporaryDirectory(prefix="rankpress-bench-") as folder, serving() as url:
        path = model_file(Path(folder) / "model.safetensors", size_bytes)
        with Client(url) as client:
            upload = client.upload(path).id
            if jobs > 1:
                _run(client, upload)
            found = [_run(client, upload) for _ in range(jobs)]
    whole = [w for w, _ in found]
    return Overhead(
        size_bytes=size_bytes,
        jobs=jobs,
        whole_seconds=summary(whole),
        compute_seconds=summary([c for _, c in found]),
        overhead_seconds=summary([w - c for w, c in found]),
        share_of_compute=summary([(w - c) / c for w, c in found]),
    )


def throughput(workers: int, *, jobs: int) -> Throughput:
    """All submitted at once, until the last has ended."""
    with TemporaryDirectory(prefix="rankpress-bench-") as folder, serving(workers) as url:
        path = model_file(Path(folder) / "model.safetensors", SMALL_BYTES)
        with Client(url) as client:
            upload = client.upload(path).id
            for warm in [_submit(client, upload) for _ in range(2 * workers)]:
                client.wait(warm)
            started = time.perf_counter()
            for job in [_submit(client, upload) for _ in range(jobs)]:
                client.wait(job)
            seconds = time.perf_counter() - started
    return Throughput(workers=workers, jobs=jobs, per_minute=60 * jobs / seconds)


def _run(client: Client, upload: str) -> tuple[float, float]:
    """(whole seconds, seconds that the stages computed)."""
    started = time.perf_counter()
    job = _submit(client, upload)
    client.wait(job)
    whole = time.perf_counter() - started
    return whole, sum(client.report(job).seconds.values())


def _submit(client: Client, upload: str) -> str:
    request = JobRequest(model=upload, threshold=THRESHOLD, protect_output=False)
    return client.submit(request).id
