"""A job through the built images, as docker-compose.yml runs them: read-only, without capabilities:
`make image containers`, with ENGINE=podman for podman.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from rankpress import Client
from rankpress.names import State
from rankpress.service.store import sha256_of
from tests.end_to_end.processes import ROOT, free_port, wait_until

ENGINE = "RANKPRESS_TEST_CONTAINERS"
EXAMPLE = ROOT / "examples" / "fashion_mnist"
FORMAT = "[{{json .Config.Healthcheck.Test}}]"
FIND_TORCH = "import importlib.util as i; print(i.find_spec('torch'))"
LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--network", "host"),
)


@dataclass
class Containers:
    """API and worker on one volume; this machine's loopback alone reaches them."""

    engine: str
    name: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.engine, *arguments], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout.strip()

    def start(self, part: str, image: str) -> None:
        said = {"HOST": "127.0.0.1", "PORT": str(self.port), "WORKER_NAME": "worker-1"}
        variables = [o for k, v in said.items() for o in ("--env", f"RANKPRESS_{k}={v}")]
        place = ("--name", f"{self.name}-{part}", "--volume", f"{self.name}:/data")
        self.say("run", "--detach", *place, *LOCKED_DOWN, *variables, image)

    def health(self, part: str) -> int:
        """The exit status of the image's own check, called by hand: who runs podman without
        systemd has no timer that does."""
        (check,) = json.loads(self.say("inspect", "--format", FORMAT, f"{self.name}-{part}"))
        assert check[0] == "CMD"
        called = [self.engine, "exec", f"{self.name}-{part}", *check[1:]]
        return subprocess.run(called, capture_output=True, check=False, timeout=60).returncode

    def ready(self) -> dict[str, object]:
        try:
            return dict(httpx.get(f"{self.url}/readyz", timeout=5).json())
        except httpx.TransportError:
            return {}

    def remove(self) -> None:
        for part in ("worker", "api"):
            subprocess.run([self.engine, "rm", "-f", f"{self.name}-{part}"], check=False)
        subprocess.run([self.engine, "volume", "rm", "-f", self.name], check=False)


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    engine = os.environ.get(ENGINE)
    if not engine:
        pytest.skip(f"no built images: `make image containers` sets {ENGINE} and runs this test")
    found = Containers(engine, f"rankpress-test-{uuid.uuid4().hex[:8]}", free_port())
    try:
        found.start("api", "rankpress-api")
        wait_until(lambda: found.ready().get("status"), what="the API", seconds=120)
        found.start("worker", "rankpress-worker-cpu")
        wait_until(lambda: found.ready().get("live_workers") == 1, what="a worker", seconds=120)
        yield found
    finally:
        found.remove()


def test_upload_to_download(containers: Containers, tmp_path: Path) -> None:
    with Client(containers.url) as client:
        model = client.upload(EXAMPLE / "model.safetensors")
        validation = client.upload(EXAMPLE / "validation.safetensors")
        job = client.submit(
            model=model.id,
            rule="energy",
            threshold=0.9,
            evaluation={
                "architecture": {"kind": "mlp", "activation": "relu"},
                "validation": validation.id,
                "task": "classification",
            },
        )
        assert client.wait(job.id, timeout=300).state is State.SUCCEEDED
        path = tmp_path / "compressed.safetensors"
        client.download(job.id, path)
        report = client.report(job.id)
    assert report.evaluation is not None
    accuracy = report.evaluation.metrics[0]
    assert accuracy.dense > 0.9
    assert abs(accuracy.difference) < 0.01
    assert sha256_of(path) == report.output_sha256
    assert path.stat().st_size < (EXAMPLE / "model.safetensors").stat().st_size


@pytest.mark.parametrize("part", ["api", "worker"])
def test_user_and_health(containers: Containers, part: str) -> None:
    name = f"{containers.name}-{part}"
    assert containers.say("exec", name, "id", "-u") == "10001"
    assert containers.health(part) == 0
    assert containers.say("exec", name, "sh", "-c", "touch /srv/x 2>/dev/null || echo no") == "no"


def test_the_api_has_no_torch(containers: Containers) -> None:
    name = f"{containers.name}-api"
    found = containers.say("exec", name, "python", "-c", FIND_TORCH)
    assert found == "None"


def test_readiness_tells_of_a_dead_worker(containers: Containers) -> None:
    """Last: the worker is gone after it."""
    containers.say("kill", "--signal", "KILL", f"{containers.name}-worker")
    wait_until(lambda: containers.ready().get("live_workers") == 0, what="no worker", seconds=60)
