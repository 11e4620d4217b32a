"""`make load`: many queued jobs of many callers, while uploads go on.

    python -m tests.load [--jobs 200] [--callers 20] [--uploaders 2] [--workers 1] [--megabytes 64]

Prints p50, p99 and the longest of each call, the largest memory of each process, and exits 1 when
any call failed or any job did not succeed. With RANKPRESS_TEST_POSTGRES_URL set, or --database, on
a fresh PostgreSQL database; otherwise SQLite.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from rankpress import Client
from rankpress.service.engine import Engine
from tests.chaos.cluster import Cluster
from tests.end_to_end.databases import fresh_database
from tests.end_to_end.processes import compute_processes
from tests.load.callers import Caller, Timings, Uploader

MIB = 1024**2
JOBS_SECONDS = 1800.0


@dataclass
class Memory:
    """The most that each process had resident, in bytes; sampled twice a second."""

    most: Counter[str] = field(default_factory=Counter)

    def sample(self, cluster: Cluster) -> None:
        service = cluster.service
        assert service.api is not None
        self._note("api", service.api.pid)
        for name, worker in service.workers.items():
            self._note(name, worker.pid)
            for process in compute_processes(worker.pid):
                self._note("compute process", process.pid)

    def _note(self, name: str, pid: int) -> None:
        try:
            resident = psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:
            return
        self.most[name] = max(self.most[name], resident)


def models(folder: Path, megabytes: int) -> tuple[Path, Path]:
    """A small model that jobs compress, and a large file that is only uploaded."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    small, large = folder / "small.safetensors", folder / "large.safetensors"
    save_file({f"{i}.weight": torch.randn(96, 64, generator=generator) for i in range(4)}, small)
    save_file({"w": torch.randn(megabytes * MIB // 4 // 1024, 1024, generator=generator)}, large)
    return small, large


def run(asked: argparse.Namespace, folder: Path, database_url: str) -> int:
    settings = {"database_url": database_url} if database_url else {}
    small, large = models(folder / "models", asked.megabytes)
    timings, memory, stop = Timings(), Memory(), threading.Event()
    with Cluster(folder / "data", workers=asked.workers, **settings).running() as cluster:
        with Client(cluster.url) as client:
            model_id = client.upload(small).id
        each = asked.jobs // asked.callers
        callers = [
            Caller(cluster.url, model_id, each, timings, stop, seed)
            for seed in range(asked.callers)
        ]
        uploaders = [Uploader(cluster.url, large, timings, stop) for _ in range(asked.uploaders)]
        threads = [threading.Thread(target=t.run) for t in (*callers, *uploaders)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        longest_queue = _watch(cluster, memory, timings, asked.callers * each, stop)
        seconds = time.monotonic() - started
        for thread in threads:
            thread.join()
        with Client(cluster.url) as client:
            states = Counter(str(job.state) for job in client.jobs())
        cores, python = os.cpu_count(), platform.python_version()
        kind = "PostgreSQL" if database_url else "SQLite"
        print(f"{kind}, {asked.workers} workers, {cores} cores, Python {python}")
        print(f"{asked.jobs} jobs of {asked.callers} callers in {seconds:.0f} s: {dict(states)}")
        print(f"longest queue {longest_queue}, "
              f"uploads of {asked.megabytes} MiB: {sum(u.uploads for u in uploaders)}")  # fmt: skip
        print("milliseconds        calls    p50    p99    max")
        for what in ("submit", "status", "upload"):
            p50, p99, most = (1000 * s for s in timings.percentiles(what))
            calls = len(timings.seconds[what])
            print(f"{what:16} {calls:8} {p50:6.0f} {p99:6.0f} {most:6.0f}")
        for name, most in sorted(memory.most.items()):
            print(f"{name:16} {most / MIB:8.0f} MiB resident at most")
        for error in timings.errors:
            print(f"ERROR: {error}")
        print(f"errors {len(timings.errors)}, processes that ended {cluster.restarts}")
        wrong = timings.errors or cluster.restarts or states != {"succeeded": asked.callers * each}
        return 1 if wrong else 0


def _watch(
    cluster: Cluster, memory: Memory, timings: Timings, jobs: int, stop: threading.Event
) -> int:
    """Until every job has ended; the longest queue that was seen."""
    longest = 0
    end = time.monotonic() + JOBS_SECONDS
    engine = Engine(cluster.service.settings)
    try:
        while time.monotonic() < end and not timings.errors:
            memory.sample(cluster)
            submitted = len(timings.seconds["submit"])
            backlog = engine.backlog()
            longest = max(longest, backlog.queued)
            if submitted == jobs and backlog.queued + backlog.running == 0:
                break
            time.sleep(0.5)
    finally:
        stop.set()
        engine.close()
    return longest


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--uploaders", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--database", default=os.environ.get("RANKPRESS_TEST_POSTGRES_URL", ""))
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rankpress-load-"))
        url = stack.enter_context(fresh_database(asked.database)) if asked.database else ""
        return run(asked, Path(folder), url)


if __name__ == "__main__":
    sys.exit(main())
