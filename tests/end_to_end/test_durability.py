"""What happens when processes die: nothing is lost, nothing is done twice, nothing hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from rankpress import Client
from rankpress.names import Stage, State
from rankpress.schemas.job import Job
from rankpress.service.engine import Engine
from tests.end_to_end.processes import Service, compute_processes, running, wait_until


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough layers that there is a middle to be killed in."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "slow.safetensors"
    layers = {
        f"layers.{i:02d}.weight": torch.randn(1200, 1100, generator=generator) for i in range(24)
    }
    save_file(layers, path)
    return path


@pytest.fixture(scope="module")
def undisturbed_sha256(slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    with running(tmp_path_factory.mktemp("undisturbed")) as service, Client(service.url) as client:
        job = client.wait(submit(client, slow_model).id)
        return client.report(job.id).output_sha256


def submit(client: Client, model: Path) -> Job:
    return client.submit(
        model=client.upload(model).id, threshold=0.3, rule="ratio", protect_output=False
    )


def reached(client: Client, job_id: str, stage: Stage, done: int = 0) -> Callable[[], bool]:
    order = list(Stage)

    def check() -> bool:
        job = client.get(job_id)
        assert not job.state.terminal, f"ended before {stage}: {job}"
        if job.stage is None:
            return False
        later = order.index(job.stage) > order.index(stage)
        return later or (job.stage is stage and job.progress.done >= done)

    return check


def cpu_seconds(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        return 0.0


@pytest.mark.parametrize(("stage", "done"), [(Stage.READ, 0), (Stage.FACTORISE, 6)])
def test_killed_worker_goes_on_where_it_stopped(
    service: Service, slow_model: Path, undisturbed_sha256: str, stage: Stage, done: int
) -> None:
    with Client(service.url) as client:
        job = submit(client, slow_model)
        wait_until(reached(client, job.id, stage, done), what=f"stage {stage}")
        service.kill_worker()
        assert client.get(job.id).state in (State.RUNNING, State.QUEUED)
        service.start_worker()
        assert client.wait(job.id, timeout=120).state is State.SUCCEEDED
        assert client.report(job.id).output_sha256 == undisturbed_sha256
    engine = Engine(service.settings)
    names = engine.steps("default", job.id)
    engine.close()
    assert names[0] == "read"
    assert names[-2:] == ["write", "report"]
    assert len(names) == len([n for n in names if n == "factorise"]) + 3
    assert not [f for f in service.stored() if "/parts/" in f]


def test_another_worker_takes_over(
    service: Service, slow_model: Path, undisturbed_sha256: str
) -> None:
    with Client(service.url) as client:
        job = submit(client, slow_model)
        wait_until(reached(client, job.id, Stage.FACTORISE, 6), what="the middle")
        service.kill_worker("worker-1")
        service.start_worker("worker-2")
        assert client.wait(job.id, timeout=120).state is State.SUCCEEDED
        assert client.report(job.id).output_sha256 == undisturbed_sha256


def test_killed_child_is_replaced(
    service: Service, slow_model: Path, undisturbed_sha256: str
) -> None:
    with Client(service.url) as client:
        job = submit(client, slow_model)
        wait_until(reached(client, job.id, Stage.FACTORISE, 6), what="the middle")
        busiest = max(compute_processes(service.workers["worker-1"].pid), key=cpu_seconds)
        busiest.kill()
        assert client.wait(job.id, timeout=120).state is State.SUCCEEDED
        assert client.report(job.id).output_sha256 == undisturbed_sha256


def test_sigterm_leaves_the_job_for_the_next_start(
    service: Service, slow_model: Path, undisturbed_sha256: str
) -> None:
    with Client(service.url) as client:
        job = submit(client, slow_model)
        wait_until(reached(client, job.id, Stage.FACTORISE, 6), what="the middle")
        worker = service.workers.pop("worker-1")
        children = compute_processes(worker.pid)
        worker.terminate()
        assert worker.wait(15) == 0
        assert not client.get(job.id).state.terminal
        wait_until(lambda: not any(p.is_running() for p in children), what="the children's end")
        service.start_worker()
        assert client.wait(job.id, timeout=120).state is State.SUCCEEDED
        assert client.report(job.id).output_sha256 == undisturbed_sha256


def test_cancel_ends_the_compute(service: Service, slow_model: Path) -> None:
    with Client(service.url) as client:
        job = submit(client, slow_model)
        wait_until(reached(client, job.id, Stage.FACTORISE, 1), what="the compute")
        worker = service.workers["worker-1"].pid
        working = max(compute_processes(worker), key=cpu_seconds)
        client.cancel(job.id)
        assert client.get(job.id).state is State.CANCELED
        # Two seconds is the contract; ten is the guard, since the machine may be busy.
        wait_until(lambda: not working.is_running(), seconds=10, what="the child's end")
        wait_until(lambda: not [f for f in service.stored() if job.id in f], what="the clean-up")
        follower = client.wait(submit(client, slow_model).id, timeout=120)
        assert follower.state is State.SUCCEEDED


def test_worker_killed_with_its_children(service: Service, slow_model: Path) -> None:
    """A compute process never outlives its worker."""
    with Client(service.url) as client:
        job = submit(client, slow_model)
        wait_until(reached(client, job.id, Stage.FACTORISE, 1), what="the compute")
        children = compute_processes(service.workers["worker-1"].pid)
        assert children
        service.kill_worker()
        wait_until(
            lambda: not any(_lives(p) for p in children), what="the orphans' end", seconds=15
        )


def test_poison_job_is_given_up(tmp_path: Path, slow_model: Path) -> None:
    """A job that takes its compute process with it each time ends failed, and says why."""
    running = Service(tmp_path, child_attempts="2")
    try:
        running.start_api()
        worker = running.start_worker()
        with Client(running.url) as client:
            job = submit(client, slow_model)
            killed: set[int] = set()

            def kill_working() -> bool:
                for child in compute_processes(worker.pid):
                    if child.pid not in killed and cpu_seconds(child) > 0.2:
                        killed.add(child.pid)
                        os.kill(child.pid, signal.SIGKILL)
                return client.get(job.id).state.terminal

            wait_until(kill_working, seconds=120, what="the end")
            ended = client.get(job.id)
            assert ended.state is State.FAILED
            assert ended.error is not None
            assert ended.error.type.endswith(":child-died")
            assert "SIGKILL" in ended.error.detail
            assert not [f for f in running.stored() if job.id in f]
    finally:
        running.stop()


def test_second_worker_of_the_same_name_is_refused(service: Service) -> None:
    alive = service.settings.scratch_dir / "worker-1.alive"
    wait_until(alive.exists, what="the first worker")
    second = service.start_worker("worker-1", key="second")
    assert second.wait(60) == 69


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
