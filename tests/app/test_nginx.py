"""docs/proxies.md as it stands there: its nginx, with TLS, before the running service."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from rankpress.service.settings import Settings
from tests.app.appkit import OCTETS, assert_problem, model_bytes, sha256, submit, upload
from tests.app.conftest import Served, served
from tests.app.jobrows import record_step, set_state, succeed
from tests.app.test_events import layer

PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"
DATA = bytes(range(256)) * 20_000
MAIN = """
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
daemon off;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {server}
}}
"""
pytestmark = [
    pytest.mark.skipif(
        shutil.which("nginx") is None, reason="no nginx on this machine: apt-get install nginx"
    ),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine"),
]


class Proxied(NamedTuple):
    client: httpx.Client  # through nginx
    service: Served
    folder: Path  # nginx's own
    port: int
    trusts: ssl.SSLContext

    def collected(self) -> list[Path]:
        """What nginx put on its disk."""
        return [p for name in ("body", "proxy") for p in (self.folder / name).rglob("*")]


def until(check: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


def configuration(folder: Path, port: int, upstream: str) -> str:
    """The page's text with this test's addresses and files in place of the example's."""
    (server,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.S)
    for old, new in {
        "server 127.0.0.1:8000;": f"server {upstream};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "/etc/ssl/rankpress": str(folder / "rankpress"),
    }.items():
        assert old in server
        server = server.replace(old, new)
    return MAIN.format(folder=folder, server=server)


@pytest.fixture(scope="module")
def proxied(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", folder / "rankpress.key", "-out", folder / "rankpress.crt",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    data = shutil.copytree(migrated, folder / "data")
    settings = Settings(data_dir=data, open_access=True, max_upload_bytes=50_000_000)
    trusts = ssl.create_default_context(cafile=folder / "rankpress.crt")
    with served(settings) as service:
        upstream = str(service.client.base_url).removeprefix("http://").rstrip("/")
        (folder / "nginx.conf").write_text(configuration(folder, port, upstream))
        command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        if os.geteuid() == 0:  # its workers would change to a user that cannot read the folder
            command += ["-g", "user root;"]
        nginx = subprocess.Popen(command, stderr=subprocess.PIPE)
        base = f"https://localhost:{port}"
        with httpx.Client(base_url=base, verify=trusts, timeout=30, trust_env=False) as client:
            try:
                until(lambda: _answers(client, nginx), "nginx")
                yield Proxied(client, service, folder, port, trusts)
            finally:
                nginx.send_signal(signal.SIGTERM)
                nginx.communicate(timeout=10)


def _answers(client: httpx.Client, nginx: subprocess.Popen[bytes]) -> bool:
    if nginx.poll() is not None:
        assert nginx.stderr is not None
        raise AssertionError(nginx.stderr.read().decode())
    try:
        return client.get("/healthz").status_code == 200
    except httpx.ConnectError:
        return False


def test_a_large_upload_and_its_digest(proxied: Proxied) -> None:
    pieces = [DATA[i : i + 100_000] for i in range(0, len(DATA), 100_000)]
    body = model_bytes(1000, 1200)
    answer = proxied.client.post("/v1/uploads", content=body, headers=OCTETS)
    assert answer.status_code == 201
    assert answer.json()["sha256"] == sha256(body)
    assert answer.headers["location"].startswith("/v1/uploads/")
    assert answer.headers["strict-transport-security"]
    # Of unknown length, and no checkpoint: the service's own answer comes through.
    refused = proxied.client.post("/v1/uploads", content=iter(pieces), headers=OCTETS)
    assert_problem(refused, 422, "unsupported-format")
    assert proxied.collected() == []


def test_an_upload_passes_as_it_comes(proxied: Proxied) -> None:
    """Half of it is in the store before the other half is sent."""
    body = model_bytes(1500, 1000)
    before = set(proxied.service.stored())
    head = (
        f"POST /v1/uploads HTTP/1.1\r\nHost: localhost:{proxied.port}\r\nConnection: close\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    plain = socket.create_connection(("127.0.0.1", proxied.port), timeout=30)
    with proxied.trusts.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(head.encode() + body[: len(body) // 2])
        until(lambda: set(proxied.service.stored()) - before, "the first half in the store")
        assert proxied.collected() == []
        connection.sendall(body[len(body) // 2 :])
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 201 ")
    assert sha256(body).encode() in received


def test_an_upload_is_resumed(proxied: Proxied) -> None:
    body = model_bytes(100, 30)
    start = {"Upload-Complete": "?0", **OCTETS}
    made = proxied.client.post("/v1/uploads", content=body[:5000], headers=start)
    place = made.headers["location"]
    offset = proxied.client.head(place).headers["upload-offset"]
    assert offset == "5000"
    rest = {
        "Content-Type": "application/partial-upload",
        "Upload-Offset": offset,
        "Upload-Complete": "?1",
    }
    done = proxied.client.patch(place, content=body[5000:], headers=rest)
    assert done.json()["sha256"] == sha256(body)


def test_events_come_as_they_happen(proxied: Proxied) -> None:
    job = submit(proxied.client)
    settings = proxied.service.settings
    with proxied.client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        lines = stream.iter_lines()
        # The job has not begun: a proxy that collects would give nothing before its end.
        assert next(line for line in lines if line.startswith("event:")) == "event: state"
        record_step(settings, job["id"], 1, "factorise", {"layers": [layer("0.weight")]})
        assert next(line for line in lines if line.startswith("event:")) == "event: layer"
        set_state(settings, job["id"], "CANCELLED")
        assert "event: done" in list(lines)


def test_ranges_and_validators(proxied: Proxied) -> None:
    job = submit(proxied.client)
    succeed(proxied.service.settings, job["id"], DATA)
    path = f"/v1/jobs/{job['id']}/weights"
    whole = proxied.client.get(path)
    assert whole.content == DATA
    assert whole.headers["etag"] == f'"{sha256(DATA)}"'
    assert "content-encoding" not in whole.headers
    part = proxied.client.get(
        path, headers={"Range": "bytes=100-", "If-Range": whole.headers["etag"]}
    )
    assert part.status_code == 206
    assert part.content == DATA[100:]
    assert proxied.client.head(path).headers["content-length"] == str(len(DATA))
    unchanged = proxied.client.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert unchanged.status_code == 304
    assert proxied.collected() == []


def test_held_answers_and_problems(proxied: Proxied) -> None:
    job = submit(proxied.client)
    held = proxied.client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=1"})
    assert held.headers["preference-applied"] == "wait=1"
    problem = assert_problem(proxied.client.get("/v1/jobs/none"), 404, "not-found")
    assert re.fullmatch("urn:rankpress:request:[0-9a-f]{32}", problem["instance"])


def test_the_page_and_its_forms(proxied: Proxied) -> None:
    """Same origin, by the host that the browser sees."""
    origin = {"Origin": f"https://localhost:{proxied.port}"}
    assert proxied.client.get("/").headers["content-type"].startswith("text/html")
    assert (
        proxied.client.post(
            "/v1/uploads", content=model_bytes(), headers={**OCTETS, **origin}
        ).status_code
        == 201
    )


def test_metrics_stay_inside(proxied: Proxied) -> None:
    assert proxied.client.get("/metrics").status_code == 404
    assert proxied.service.client.get("/metrics").status_code == 200
    assert upload(proxied.client)
