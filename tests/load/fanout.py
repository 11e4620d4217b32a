"""How the time of one large job divides over workers, against one PostgreSQL.

    python -m tests.load.fanout [--workers 1 2 4] [--layers 128] [--rows 640] [--columns 512]

A new service for each number of workers, of one thread each, with RANKPRESS_FAN_OUT; every one must
give the same bytes. Seconds are those from submit to the end, and of the stages, by the report.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from rankpress import Client
from tests.end_to_end.databases import fresh_database
from tests.end_to_end.processes import Service, wait_until

SERVER = "RANKPRESS_TEST_POSTGRES_URL"


class Measured(NamedTuple):
    workers: int
    seconds: float
    stages: dict[str, float]
    sha256: str


def measured(folder: Path, model: Path, url: str, workers: int) -> Measured:
    folder.mkdir()
    service = Service(folder, database_url=url, fan_out="true", threads="1", step_seconds="0.5")
    try:
        service.start_api()
        for number in range(workers):
            service.start_worker(f"worker-{number}")
        wait_until(
            lambda: service.ready()["live_workers"] == workers, seconds=300, what="all workers"
        )
        with Client(service.url) as client:
            upload = client.upload(model)
            # So that every worker's compute process has been forked from a server that is warm.
            time.sleep(10)
            started = time.monotonic()
            job = client.submit(model=upload.id, threshold=0.3, rule="ratio", protect_output=False)
            client.wait(job.id, timeout=600)
            seconds = time.monotonic() - started
            report = client.report(job.id)
    finally:
        service.stop()
    stages = {str(stage): found for stage, found in report.seconds.items()}
    return Measured(workers, seconds, stages, report.output_sha256)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load.fanout", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--layers", type=int, default=128)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--columns", type=int, default=512)
    asked = parser.parse_args()
    server = os.environ.get(SERVER)
    if not server:
        sys.exit(f"{SERVER} names no PostgreSQL server")
    generator = torch.Generator().manual_seed(0)
    layers = {
        f"layers.{i:03d}.weight": torch.randn(asked.rows, asked.columns, generator=generator)
        for i in range(asked.layers)
    }
    print(f"{asked.layers} layers of {asked.rows} x {asked.columns}, float32; one thread a worker")
    print(f"PostgreSQL, {os.cpu_count()} cores, Python {platform.python_version()}")
    found = []
    with tempfile.TemporaryDirectory(prefix="rankpress-fanout-") as name:
        model = Path(name) / "model.safetensors"
        save_file(layers, model)
        for workers in asked.workers:
            with fresh_database(server) as url:
                one = measured(Path(name) / str(workers), model, url, workers)
            found.append(one)
            stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in one.stages.items())
            print(f"workers {workers}: {one.seconds:6.1f} s  ({stages})", flush=True)
    same = len({one.sha256 for one in found}) == 1
    print("the same bytes" if same else "THE BYTES DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
