"""The wall clock is set by a day while a job runs: nobody loses it, and it ends.

The processes are real; a small library (wallclock.c) stands between them and the system's clock.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from rankpress import Client
from rankpress.names import Stage, State
from rankpress.service.engine import Engine
from rankpress.service.postgres_lease import PATIENCE_SECONDS
from rankpress.service.reaper import INTERVAL_SECONDS
from rankpress.service.settings import Settings
from tests.end_to_end.packages import REQUIRED
from tests.end_to_end.processes import ROOT, Service, compute_processes, wait_until

COMPILER = shutil.which("cc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        COMPILER is None and not os.environ.get(REQUIRED),
        reason=f"there is no C compiler (Debian: gcc, libc6-dev); {REQUIRED} makes this a failure",
    ),
]
DAY = 86_400  # seconds


class Clock:
    """The wall clock of the processes started with `environment`."""

    def __init__(self, file: Path, library: Path) -> None:
        file.write_bytes(bytes(8))
        self._file = file
        self.environment = {"LD_PRELOAD": str(library), "WALLCLOCK_FILE": str(file)}

    def set(self, offset_seconds: int) -> None:
        """By so much off the true time, at once: the processes have the file mapped."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", offset_seconds))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    assert COMPILER is not None, "there is no C compiler (Debian: gcc, libc6-dev)"
    library = tmp_path / "wallclock.so"
    source = Path(__file__).with_name("wallclock.c")
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([COMPILER, *options, "-o", str(library), str(source), "-ldl"], check=True)
    return Clock(tmp_path / "wallclock", library)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def service(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Service]:
    """Whose retention is half a day: an upload is too old after a jump."""
    settings = {"retention_days": "0.5", "threads": "1", "step_seconds": "0.5"}
    if request.param == "postgres":
        settings["database_url"] = request.getfixturevalue("postgres_url")
    running = Service(tmp_path, **settings)
    running.environment |= clock.environment
    try:
        running.start_api()
        running.start_worker("worker-1")
        yield running
    finally:
        running.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    save_file(
        {f"layers.{i}.weight": torch.randn(900, 700, generator=generator) for i in range(5)}, path
    )
    return path


def held(service: Service, client: Client, job_id: str) -> list[psutil.Process]:
    """The job's compute processes, stopped in the middle of it."""
    wait_until(lambda: client.get(job_id).stage is Stage.FACTORISE, what="the middle", seconds=200)
    found = compute_processes(service.workers["worker-1"].pid)
    for process in found:
        process.suspend()
    assert found
    return found


def holder(settings: Settings, job_id: str) -> tuple[str | None, int | None]:
    """Who has the job, and how often it was taken up."""
    engine = Engine(settings)
    try:
        (row,) = engine._client.list_workflows(workflow_ids=[f"default:{job_id}"])
    finally:
        engine.close()
    return row.executor_id, row.recovery_attempts


def logged(service: Service) -> dict[str, list[datetime]]:
    """When each event happened, by the clock of the process."""
    log = service.settings.data_dir / "processes.log"
    found = defaultdict(list)
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            event = json.loads(line)
            found[event["event"]].append(datetime.fromisoformat(event["timestamp"]))
    return found


def is_healthy(service: Service, name: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "worker", "--health"],
        cwd=ROOT,
        env={**service.environment, "RANKPRESS_WORKER_NAME": name},
        check=False,
    )
    return done.returncode == 0


@pytest.mark.parametrize(("jump", "survives"), [(DAY, True), (-DAY, False)])
def test_a_jump_neither_takes_the_job_nor_leaves_it_stuck(
    service: Service, clock: Clock, model: Path, jump: int, survives: bool
) -> None:
    with Client(service.url) as client:
        upload = client.upload(model)
        job = client.submit(model=upload.id, threshold=0.3, rule="ratio", protect_output=False)
        compute = held(service, client, job.id)
        try:
            clock.set(jump)
            # It sweeps at its start, by the new time, and looks for dead workers as the API does.
            service.start_worker("worker-2")
            wait_until(
                lambda: len(logged(service)["worker_ready"]) == 2, seconds=200, what="the second"
            )
            patience = 0 if service.settings.sqlite_path else PATIENCE_SECONDS
            time.sleep(patience + INTERVAL_SECONDS + 2)

            first, second = logged(service)["worker_ready"]
            off = (second - first).total_seconds() - jump
            assert abs(off) < 3600, "the clock was not set"
            assert holder(service.settings, job.id) == ("worker-1", 1)
            assert client.get(job.id).state is State.RUNNING
            assert is_healthy(service, "worker-1")
            assert not {"worker_gone", "lease_lost", "retention_failed"} & set(logged(service))
            if not survives:
                service.kill_worker("worker-1")
        finally:
            for process in compute:
                process.resume()
        done = client.wait(job.id, timeout=200)
        assert done.state is State.SUCCEEDED
        assert holder(service.settings, job.id)[0] == ("worker-1" if survives else "worker-2")
        assert ("worker_gone" in logged(service)) is not survives
        # And by the new time there are new jobs.
        again = client.submit(model=client.upload(model).id, threshold=0.3, rule="ratio")
        assert client.wait(again.id, timeout=200).state is State.SUCCEEDED
