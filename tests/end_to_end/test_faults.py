"""Faults from outside: processes killed, connections cut, a full disk, too little memory, a clock
that jumps. By real processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
import torch
from safetensors.torch import save_file

from rankpress import Client
from rankpress.client import RetryPolicy
from rankpress.names import Stage, State
from rankpress.schemas.job import Job
from rankpress.service.localfiles import below
from tests.end_to_end.processes import Service, compute_processes, wait_until

MIB = 1024**2
PATIENT = RetryPolicy(attempts=100, base_seconds=0.2, cap_seconds=1.0)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    layers = {
        f"layers.{i:02d}.weight": torch.randn(900, 700, generator=generator) for i in range(24)
    }
    save_file(layers, path)
    return path


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Service]:
    """API and worker on SQLite, with many steps to be cut between."""
    found = Service(tmp_path, step_seconds="0.2")
    try:
        found.start_api()
        found.start_worker()
        yield found
    finally:
        found.stop()


def submit(client: Client, model: Path, threshold: float = 0.3) -> Job:
    return client.submit(
        model=client.upload(model).id, threshold=threshold, rule="ratio", protect_output=False
    )


def wait_for_middle(client: Client, job: Job) -> None:
    def middle() -> bool:
        found = client.get(job.id)
        assert not found.state.terminal, f"ended before its middle: {found}"
        return found.stage is Stage.FACTORISE and found.progress.done >= 1

    wait_until(middle, seconds=200, what="the middle")


def kill_api(service: Service) -> None:
    assert service.api is not None
    service.api.kill()
    service.api.wait()


def test_api_killed_in_the_middle_of_an_upload(running: Service, model: Path) -> None:
    """The client goes on where the new process says; what the old one held is not there."""
    sent = threading.Event()
    back = threading.Event()

    def progress(done: int) -> None:
        if done > 20 * MIB and not sent.is_set():
            sent.set()
            back.wait(60)

    def restart() -> None:
        sent.wait(60)
        kill_api(running)
        back.set()
        running.start_api()

    killer = threading.Thread(target=restart)
    killer.start()
    with Client(running.url, retry=PATIENT) as client:
        upload = client.upload(model, progress=lambda count, *_: progress(count))
        killer.join()
        assert sent.is_set()
        assert upload.size_bytes == model.stat().st_size
        stored = [f for f in running.stored() if f.startswith("uploads/")]
        assert stored == [
            f"uploads/default/{upload.id}/data",
            f"uploads/default/{upload.id}/upload.json",
        ] or all(f"/{upload.id}/" in f for f in stored), stored
        assert client.get_upload(upload.id).sha256 == upload.sha256


def test_api_killed_under_an_upload_that_cannot_be_resumed(running: Service) -> None:
    """No record, so it never was: neither in the list nor for a job."""
    head = (
        "POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {50 * MIB}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port), 10) as connection:
        connection.sendall(head.encode() + os.urandom(20 * MIB))
        wait_until(lambda: _sizes(running), what="the first bytes in the store")
        kill_api(running)
        connection.settimeout(30)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1000) == b""
    running.start_api()
    assert not [f for f in running.stored() if f.endswith(("/data", "/upload.json"))]


def test_api_killed_in_the_middle_of_a_download(
    running: Service, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "small.safetensors"
    with Client(running.url, retry=PATIENT) as client:
        job = client.wait(submit(client, model).id, timeout=300)
        cut = threading.Event()

        def progress(done: int) -> None:
            if done > 4 * MIB and not cut.is_set():
                cut.set()
                kill_api(running)
                running.start_api()

        client.download(job.id, path, progress=lambda count, *_: progress(count))
        assert cut.is_set()
        report = client.report(job.id)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == report.output_sha256
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("small")] == [path.name]


@pytest.mark.postgres
def test_connections_cut_under_a_job(postgres_url: str, tmp_path: Path, model: Path) -> None:
    """As when the database is restarted: every session ends at once, three times."""
    found = Service(tmp_path, database_url=postgres_url, step_seconds="0.2")
    try:
        found.start_api()
        found.start_worker()
        with Client(found.url, retry=PATIENT) as client:
            job = submit(client, model)
            wait_for_middle(client, job)
            for _ in range(3):
                with psycopg.connect(postgres_url, autocommit=True) as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                time.sleep(1)
            assert client.wait(job.id, timeout=300).state is State.SUCCEEDED
        assert found.workers["worker-1"].poll() is None, "the worker gave up its lease"
    finally:
        found.stop()


@pytest.mark.postgres
def test_two_api_processes(postgres_url: str, tmp_path: Path, model: Path) -> None:
    """One job by one key, whichever is asked; each sees what the other took."""
    one = Service(tmp_path, database_url=postgres_url)
    two = Service(tmp_path, database_url=postgres_url)
    try:
        one.start_api()
        two.start_api()
        one.start_worker()
        with Client(one.url) as first, Client(two.url) as second:
            upload = first.upload(model)
            fields = {"model": upload.id, "threshold": 0.3, "rule": "ratio"}
            jobs = {c.submit(idempotency_key="k", **fields).id for c in (first, second, first)}
            (job_id,) = jobs
            assert second.wait(job_id, timeout=300).state is State.SUCCEEDED
            assert [j.id for j in first.jobs()] == [job_id]
    finally:
        two.stop()
        one.stop()


def test_disk_full_under_a_job(tmp_path: Path, model: Path) -> None:
    """The job says so, and leaves nothing; with room again the next one succeeds."""
    disk = tmp_path / "disk"
    disk.mkdir()
    # Room for one upload as its pieces and as a whole, not for what its job makes of it.
    size = 2 * model.stat().st_size + 8 * MIB
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here: it takes root")
    found = Service(disk, min_free_bytes="0", database_url=f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    try:
        found.start_api()
        found.start_worker()
        with Client(found.url, retry=RetryPolicy(attempts=1)) as client:
            job = submit(client, model, threshold=0.9)
            wait_until(lambda: client.get(job.id).state.terminal, seconds=200, what="the end")
            ended = client.get(job.id)
            assert ended.state is State.FAILED
            assert ended.error is not None
            assert ended.error.type.endswith(":insufficient-storage"), ended.error
            assert not [f for f in found.stored() if job.id in f]
            with pytest.raises(Exception, match="no space left"):
                client.upload(model)
            assert client.get(job.id).state is State.FAILED  # the service lives
            subprocess.run(["mount", "-o", f"remount,size={size * 8}", str(disk)], check=True)
            assert client.wait(submit(client, model).id, timeout=300).state is State.SUCCEEDED
    finally:
        found.stop()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_out_of_memory_in_the_compute(tmp_path: Path, model: Path) -> None:
    """A limit on its memory in the middle of a job: the job says so, and the worker goes on."""
    growing = tmp_path / "growing.safetensors"
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            f"{i:02d}.weight": torch.randn(400 + 60 * i, 300 + 60 * i, generator=generator)
            for i in range(24)
        },
        growing,
    )
    running = Service(tmp_path, step_seconds="0.2", child_attempts="1")
    try:
        running.start_api()
        running.start_worker()
        _run_out_of_memory(running, growing, model)
        assert running.workers["worker-1"].poll() is None
    finally:
        running.stop()


def _run_out_of_memory(running: Service, growing: Path, model: Path) -> None:
    with Client(running.url) as client:
        job = submit(client, growing)
        wait_for_middle(client, job)
        for process in compute_processes(running.workers["worker-1"].pid):
            process.rlimit(psutil.RLIMIT_AS, (MIB, MIB))
        wait_until(lambda: client.get(job.id).state.terminal, seconds=200, what="the end")
        ended = client.get(job.id)
        assert ended.state is State.FAILED, ended
        assert ended.error is not None
        assert ended.error.type.endswith((":job-failed", ":child-died"))
        assert "memory" in ended.error.detail
        wait_until(lambda: not [f for f in running.stored() if job.id in f], what="the clean-up")
        assert client.wait(submit(client, model).id, timeout=200).state is State.SUCCEEDED


@pytest.mark.skipif(not shutil.which("faketime"), reason="Debian's faketime is not installed")
@pytest.mark.parametrize("jump", ["-2d", "+2d"])
def test_the_worker_s_clock_is_days_off(tmp_path: Path, model: Path, jump: str) -> None:
    """Nothing that keeps a job alive or takes it over looks at the wall clock."""
    library = next(Path("/usr/lib").rglob("libfaketime.so.1"))
    found = Service(tmp_path, step_seconds="0.2")
    clock = {"LD_PRELOAD": str(library), "FAKETIME": jump, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    try:
        found.start_api()
        found.start_worker("worker-1", **clock)
        with Client(found.url) as client:
            job = submit(client, model)
            wait_for_middle(client, job)
            found.kill_worker("worker-1")
            found.start_worker("worker-2")  # by the true time: a jump in the middle of the job
            assert client.wait(job.id, timeout=300).state is State.SUCCEEDED
    finally:
        found.stop()


@pytest.mark.postgres
def test_a_frozen_worker_is_replaced_and_ends_itself(
    postgres_url: str, tmp_path: Path, model: Path
) -> None:
    """It cannot prove its lease; when it wakes its job is another's, and it must not touch it."""
    found = Service(tmp_path, database_url=postgres_url, step_seconds="0.2")
    try:
        found.start_api()
        frozen = found.start_worker("worker-1")
        with Client(found.url) as client:
            job = submit(client, model)
            wait_for_middle(client, job)
            frozen.send_signal(signal.SIGSTOP)
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'rankpress-lease'"
                    " AND datname = current_database()"
                )
            found.start_worker("worker-2")

            def taken() -> bool:
                with psycopg.connect(postgres_url) as connection:
                    row = connection.execute(
                        "SELECT executor_id FROM dbos.workflow_status WHERE workflow_uuid = %s",
                        (f"default:{job.id}",),
                    ).fetchone()
                return row == ("worker-2",)

            wait_until(taken, seconds=120, what="the take-over")
            frozen.send_signal(signal.SIGCONT)
            assert frozen.wait(60) == 75
            assert client.wait(job.id, timeout=300).state is State.SUCCEEDED
            assert not [f for f in found.stored() if "/parts/" in f]
    finally:
        found.stop()


def test_without_a_worker_a_job_is_queued_again(running: Service, model: Path) -> None:
    """No job is running when nobody runs it: with one worker it is the API that notices."""
    with Client(running.url) as client:
        job = submit(client, model)
        wait_for_middle(client, job)
        running.kill_worker()
        wait_until(
            lambda: client.get(job.id).state is State.QUEUED, seconds=30, what="the way back"
        )
        ready = running.ready()
        assert ready["live_workers"] == 0
        assert "no worker" in ready["warnings"][0]
        assert httpx.get(f"{running.url}/readyz", timeout=30).status_code == 200
        running.start_worker("worker-2")
        assert client.wait(job.id, timeout=300).state is State.SUCCEEDED


def _sizes(service: Service) -> list[int]:
    root = service.settings.data_dir / "store" / "uploads"
    return [p.stat().st_size for p in below(root) if p.stat().st_size]
