"""Bodies that come badly: cut, silent, lying about their length, or simply large."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from rankpress.service.settings import Settings
from tests.app import rawhttp
from tests.app.appkit import OCTETS, assert_problem, model_bytes, submit
from tests.app.conftest import Served, served

MIB = 1024**2


def until(condition: Callable[[], bool]) -> None:
    """What must come, comes; the bound only ends a test that fails."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def impatient(settings: Settings) -> Iterator[Served]:
    with served(settings.model_copy(update={"stalled_body_seconds": 0.3})) as running:
        yield running


def form_head(length: int) -> tuple[bytes, bytes]:
    part = b'--x\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'
    fields = {"Content_Type": "multipart/form-data; boundary=x", "Content_Length": str(length)}
    return rawhttp.head("POST", "/v1/jobs", **fields), part


@pytest.mark.parametrize("route", ["upload", "form"])
@pytest.mark.parametrize("sent", [0, 1, 300_000])
def test_a_client_that_goes_away_leaves_nothing(route: str, sent: int, service: Served) -> None:
    with rawhttp.connect(service) as connection:
        if route == "upload":
            connection.sendall(rawhttp.head("POST", "/v1/uploads", Content_Length="900000"))
        else:
            top, part = form_head(900_000)
            connection.sendall(top + part)
        connection.sendall(b"x" * sent)
        if sent == 300_000:  # the put has begun
            until(lambda: service.stored() != [])
    until(lambda: service.stored() == [])
    assert service.client.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize("route", ["upload", "form", "json"])
def test_a_silent_body_is_given_up(route: str, impatient: Served) -> None:
    with rawhttp.connect(impatient) as connection:
        if route == "form":
            top, part = form_head(1000)
            connection.sendall(top + part + b"x")
        else:
            path, kind = {
                "upload": ("/v1/uploads", "application/octet-stream"),
                "json": ("/v1/jobs", "application/json"),
            }[route]
            fields = {"Content_Length": "1000", "Content_Type": kind}
            connection.sendall(rawhttp.head("POST", path, **fields) + b"{")
        status, headers, body = rawhttp.read_to_end(connection)
    assert (status, body["type"]) == (408, "urn:rankpress:problem:request-timeout")
    assert headers["connection"] == "close"
    assert impatient.stored() == []


def test_a_slow_body_that_goes_on_is_taken(impatient: Served) -> None:
    def slowly() -> Iterator[bytes]:
        data = model_bytes()
        for start in range(0, len(data), 64):
            yield data[start : start + 64]
            time.sleep(0.1)

    response = impatient.client.post("/v1/uploads", content=slowly(), headers=OCTETS)
    assert response.status_code == 201, response.text


def test_an_announced_length_beyond_the_limit_is_refused_before_the_body(service: Served) -> None:
    with rawhttp.connect(service) as connection:
        fields = {"Content_Length": "5000000", "Expect": "100-continue"}
        connection.sendall(rawhttp.head("POST", "/v1/uploads", **fields))
        status, headers, body = rawhttp.read_to_end(connection)
    assert (status, body["type"]) == (413, "urn:rankpress:problem:payload-too-large")
    assert headers["connection"] == "close"


def test_after_an_early_answer_the_rest_of_the_body_is_no_request(service: Served) -> None:
    """Else a body could smuggle requests past a proxy in front."""
    with rawhttp.connect(service) as connection:
        fields = {"Content_Length": "100", "Content_Type": "text/plain"}
        smuggled = rawhttp.head("GET", "/healthz")
        top = rawhttp.head("POST", "/v1/uploads", **fields)
        connection.sendall(top + smuggled.ljust(100, b" ") + smuggled)
        status, _, body = rawhttp.read_to_end(connection)
    assert (status, body["status"]) == (415, 415)


def test_a_full_disk_is_507_and_leaves_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankpress.service.store.Store.free_bytes", lambda self: 100)
    with served(settings) as running:
        response = running.client.post("/v1/uploads", content=model_bytes(), headers=OCTETS)
        assert_problem(response, 507, "insufficient-storage")
        assert running.stored() == []


class Process:
    """The service as a process of its own, so that its memory can be looked at."""

    def __init__(self, folder: Path) -> None:
        environment = {
            **os.environ,
            "RANKPRESS_DATA_DIR": str(folder),
            "RANKPRESS_PORT": "0",
            "TMPDIR": str(folder / "no-such-folder"),  # nothing may be spooled there
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "running on" in line:
                self.url = "http://127.0.0.1:" + line.split("127.0.0.1:")[1].split()[0].strip('"')
                break
        self.memory = psutil.Process(self.process.pid)

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    running = Process(tmp_path / "data")
    yield running
    running.close()


def test_held_answers_are_given_when_the_service_is_told_to_end(process: Process) -> None:
    """A stream of events ends as a whole answer, not with a cut connection."""
    with httpx.Client(base_url=process.url, timeout=60, trust_env=False) as client:
        job = submit(client)
        with (
            client.stream("GET", f"/v1/jobs/{job['id']}/events") as events,
            ThreadPoolExecutor(1) as pool,
        ):
            pieces = events.iter_text()
            next(pieces)
            url = f"{process.url}/v1/jobs/{job['id']}"
            held = pool.submit(httpx.get, url, headers={"Prefer": "wait=60"}, timeout=60)
            metrics = f"{process.url}/metrics"
            until(lambda: "requests_running 3.0" in httpx.get(metrics).text)  # with this one
            process.process.send_signal(signal.SIGTERM)
            assert "event: done" not in "".join(pieces)
            assert held.result().json()["state"] == "queued"
        # uvicorn takes the signal once more when everything is closed.
        assert process.process.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("route", ["upload", "form"])
def test_memory_stays_flat_while_a_large_file_goes_through(route: str, process: Process) -> None:
    """300 MiB through the service: its memory grows by less than 150 MiB, which is
    what it may for 2 GB."""
    size = 300 * MIB
    text = f'{{"w":{{"dtype":"F32","shape":[{size // 16},4],"data_offsets":[0,{size}]}}}}'
    top = len(text).to_bytes(8, "little") + text.encode()
    piece = os.urandom(MIB)
    digest, peak = hashlib.sha256(top), 0

    def body() -> Iterator[bytes]:
        nonlocal peak
        if route == "form":
            yield form_head(0)[1]
        yield top
        for _ in range(size // MIB):
            digest.update(piece)
            yield piece
            peak = max(peak, process.memory.memory_info().rss)
        if route == "form":
            threshold = b'\r\n--x\r\nContent-Disposition: form-data; name="threshold"\r\n\r\n0.9'
            yield threshold + b"\r\n--x--\r\n"

    with httpx.Client(base_url=process.url, timeout=60, trust_env=False) as client:
        assert client.get("/readyz").status_code == 200
        idle = process.memory.memory_info().rss
        if route == "upload":
            response = client.post("/v1/uploads", content=body(), headers=OCTETS)
            assert response.status_code == 201, response.text
            described = response.json()
        else:
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            response = client.post("/v1/jobs", content=body(), headers=headers)
            assert response.status_code == 202, response.text
            described = client.get(f"/v1/uploads/{response.json()['request']['model']}").json()
    assert described["sha256"] == digest.hexdigest()
    assert described["size_bytes"] == size + len(top)
    assert peak - idle < 150 * MIB
