"""The tools that callers have at hand, against the running service."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.app.appkit import model_bytes, sha256, submit
from tests.app.conftest import Served
from tests.app.jobrows import record_step, set_state, succeed
from tests.app.test_events import layer

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
needs_wget = pytest.mark.skipif(shutil.which("wget") is None, reason="wget is not on this machine")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")
DATA = bytes(range(256)) * 2000


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def weights(service: Served) -> str:
    """The URL of a finished job's weights."""
    job = submit(service.client)
    succeed(service.settings, job["id"], DATA, name="small.safetensors")
    return f"{service.client.base_url}/v1/jobs/{job['id']}/weights"


@needs_curl
def test_curl_uploads_and_submits(service: Served, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(model_bytes())
    base = f"{service.client.base_url}/v1"
    octets = "Content-Type: application/octet-stream"
    arguments = ("--data-binary", "@m.safetensors", "-H", octets)
    made = json.loads(run("curl", "-sSf", *arguments, f"{base}/uploads", cwd=tmp_path))
    assert made["sha256"] == sha256(model_bytes())
    form = ("-F", "model=@m.safetensors", "-F", "threshold=0.9")
    job = json.loads(run("curl", "-sSf", *form, f"{base}/jobs", cwd=tmp_path))
    assert job["state"] == "queued"


@needs_curl
def test_curl_resumes_an_upload(service: Served, tmp_path: Path) -> None:
    data = model_bytes(40, 40)
    (tmp_path / "a").write_bytes(data[:1000])
    (tmp_path / "b").write_bytes(data[1000:])
    begun = run(
        "curl", "-sSfi", "-X", "POST", "-H", "Upload-Complete: ?0",
        f"{service.client.base_url}/v1/uploads", cwd=tmp_path,
    )  # fmt: skip
    place = next(line for line in begun.splitlines() if line.lower().startswith("location:"))
    url = f"{service.client.base_url}{place.split(': ')[1].strip()}"
    for name, offset, complete in (("a", 0, "?0"), ("b", 1000, "?1")):
        answer = run(
            "curl", "-sSf", "-X", "PATCH", "--data-binary", f"@{name}",
            "-H", f"Upload-Offset: {offset}",
            "-H", "Content-Type: application/partial-upload", "-H", f"Upload-Complete: {complete}",
            url, cwd=tmp_path,
        )  # fmt: skip
    assert json.loads(answer)["sha256"] == sha256(data)


@needs_curl
def test_curl_goes_on_with_a_download(weights: str, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:12345])
    run("curl", "-sSf", "-C", "-", "-o", "part", weights, cwd=tmp_path)
    assert (tmp_path / "part").read_bytes() == DATA
    assert run("curl", "-sSf", "-r", "0-9", "-o", "ten", weights, cwd=tmp_path) == ""
    assert (tmp_path / "ten").read_bytes() == DATA[:10]
    run("curl", "-sSfOJ", weights, cwd=tmp_path)
    assert (tmp_path / "small.safetensors").read_bytes() == DATA


@needs_curl
def test_curl_follows_a_job(weights: str, tmp_path: Path) -> None:
    text = run("curl", "-sSfN", weights.replace("/weights", "/events"), cwd=tmp_path)
    assert "event: done" in text


@needs_wget
def test_wget_goes_on_with_a_download(weights: str, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:12345])
    run("wget", "-q", "-c", "-O", "part", weights, cwd=tmp_path)
    assert (tmp_path / "part").read_bytes() == DATA
    run("wget", "-q", "--content-disposition", weights, cwd=tmp_path)
    assert (tmp_path / "small.safetensors").read_bytes() == DATA


# node has fetch and no EventSource of its own: what is read is the stream, by the same rules.
READER = """
const response = await fetch(process.argv[1], {headers: {Accept: "text/event-stream"}});
let text = "";
for await (const piece of response.body.pipeThrough(new TextDecoderStream())) text += piece;
const names = text.split("\\n\\n").map(b => /^event: (.*)$/m.exec(b)?.[1]).filter(Boolean);
console.log(JSON.stringify([response.headers.get("content-type"), ...names]));
"""


@needs_node
def test_a_script_reads_the_events(service: Served, tmp_path: Path) -> None:
    job = submit(service.client)
    record_step(service.settings, job["id"], 1, "factorise", {"layers": [layer("a")]})
    set_state(service.settings, job["id"], "CANCELLED")
    url = f"{service.client.base_url}/v1/jobs/{job['id']}/events"
    found = json.loads(run("node", "--input-type=module", "-e", READER, url, cwd=tmp_path))
    assert found == ["text/event-stream; charset=utf-8", "state", "layer", "done"]
