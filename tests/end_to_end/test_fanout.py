"""One job's layers over several workers: the same bytes, whoever computes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import torch
from safetensors.torch import save_file

from rankpress import Client
from rankpress.names import Stage, State
from rankpress.schemas.job import Job
from tests.end_to_end.processes import Service, compute_processes, running, wait_until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
LAYERS = 128


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "deep.safetensors"
    layers = {
        f"layers.{i:03d}.weight": torch.randn(384, 320, generator=generator) for i in range(LAYERS)
    }
    save_file(layers, path)
    return path


@pytest.fixture(scope="module")
def one_worker(deep_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SHA-256 of what one worker alone makes of it, group after group, on SQLite."""
    with running(tmp_path_factory.mktemp("alone")) as service, Client(service.url) as client:
        job = client.wait(submit(client, deep_model).id, timeout=200)
        return client.report(job.id).output_sha256


@pytest.fixture
def spread(tmp_path: Path, postgres_url: str) -> Iterator[Service]:
    small = {"threads": "1", "step_seconds": "0.05"}
    running = Service(tmp_path, database_url=postgres_url, fan_out="true", **small)
    try:
        running.start_api()
        yield running
    finally:
        running.stop()


def submit(client: Client, model: Path) -> Job:
    return client.submit(
        model=client.upload(model).id, threshold=0.3, rule="ratio", protect_output=False
    )


def groups(service: Service, job: Job) -> list[tuple[str, str]]:
    """Executor and status of each group of the job."""
    with psycopg.connect(service.settings.database_url) as connection:
        rows: list[Any] = connection.execute(
            "SELECT executor_id, status FROM dbos.workflow_status WHERE workflow_uuid LIKE %s",
            (f"%:{job.id}:%",),
        ).fetchall()
    return [(str(row[0]), str(row[1])) for row in rows]


@pytest.mark.parametrize("workers", [2, 4])
def test_many_workers_give_the_bytes_of_one(
    spread: Service, deep_model: Path, one_worker: str, workers: int
) -> None:
    for number in range(workers):
        spread.start_worker(f"worker-{number}")
    with Client(spread.url) as client:
        wait_until(
            lambda: spread.ready()["live_workers"] == workers, seconds=200, what="all workers"
        )
        job = submit(client, deep_model)
        assert client.wait(job.id, timeout=200).state is State.SUCCEEDED
        assert client.report(job.id).output_sha256 == one_worker
    by_worker = Counter(name for name, status in groups(spread, job) if status == "SUCCESS")
    assert len(by_worker) == workers, f"some had nothing to do: {by_worker}"
    assert not [f for f in spread.stored() if "/parts/" in f]


def test_a_worker_dies_in_the_middle(spread: Service, deep_model: Path, one_worker: str) -> None:
    spread.start_worker("worker-0")
    spread.start_worker("worker-1")
    with Client(spread.url) as client:
        job = submit(client, deep_model)

        def middle() -> list[str]:
            """Workers that hold a group, once some are done."""
            found = groups(spread, job)
            done = sum(status == "SUCCESS" for _, status in found)
            return [name for name, status in found if status == "PENDING"] if done >= 3 else []

        holder = wait_until(middle, seconds=200, what="the middle")[0]
        spread.kill_worker(holder)
        assert client.wait(job.id, timeout=200).state is State.SUCCEEDED
        assert client.report(job.id).output_sha256 == one_worker
    assert {status for _, status in groups(spread, job)} == {"SUCCESS"}


def test_cancel_reaches_every_worker(spread: Service, deep_model: Path) -> None:
    workers = [spread.start_worker(f"worker-{n}") for n in range(2)]
    with Client(spread.url) as client:
        job = submit(client, deep_model)

        def both_compute() -> bool:
            holders = {name for name, status in groups(spread, job) if status == "PENDING"}
            return len(holders) == 2 and client.get(job.id).stage is Stage.FACTORISE

        wait_until(both_compute, seconds=200, what="both at work")
        client.cancel(job.id)
        assert client.get(job.id).state is State.CANCELED
        wait_until(
            lambda: not any(compute_processes(w.pid) for w in workers),
            seconds=40,
            what="the end of all compute",
        )
        statuses = {status for _, status in groups(spread, job)}
        assert statuses <= {"SUCCESS", "CANCELLED"}, statuses
        wait_until(
            lambda: not [f for f in spread.stored() if job.id in f], what="the clean-up", seconds=40
        )
