"""A client that openapi-python-client makes of docs/openapi.json, against the running service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.app.appkit import model_bytes, sha256
from tests.app.conftest import Served
from tests.app.jobrows import succeed

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv-tools" / "bin"  # made by `make tools`, apart from the service's own packages
TOOL = "openapi-python-client"
DATA = bytes(range(256)) * 100
# What the generator does not know by itself: this body is bytes, too.
CONFIG = {"content_type_overrides": {"application/partial-upload": "application/octet-stream"}}
UPLOAD_AND_SUBMIT = """
import json, sys
from generated.client import Client
from generated.api.jobs import get_job, list_jobs, submit_job
from generated.api.uploads import create_upload, get_upload
from generated.models import Job, JobRequest, Problem, Upload
from generated.types import File

client = Client(base_url=sys.argv[1])
with open(sys.argv[2], "rb") as file:
    name = 'attachment; filename="m.st"'
    upload = create_upload.sync(client=client, body=File(file), content_disposition=name)
assert isinstance(upload, Upload), upload
again = get_upload.sync(upload.id, client=client)
assert again == upload
request = JobRequest(model=upload.id, threshold=0.9)
made = submit_job.sync(client=client, body=request, idempotency_key="k1")
assert isinstance(made, Job), made
assert submit_job.sync(client=client, body=request, idempotency_key="k1").id == made.id
page = list_jobs.sync(client=client, state="queued")
refused = submit_job.sync_detailed(client=client, body=JobRequest(model="none", threshold=0.9))
assert isinstance(refused.parsed, Problem)
absent = get_job.sync(client=client, job_id="none")
assert isinstance(absent, Problem)
print(json.dumps({
    "sha256": upload.sha256, "filename": upload.filename, "tensors": len(upload.tensors),
    "job": made.id, "state": made.state, "listed": [job.id for job in page.items],
    "pointer": refused.parsed.errors[0].pointer, "absent": absent.status,
}))
"""
DOWNLOAD = """
import sys
from generated.client import Client
from generated.api.artifacts import get_job_weights
from generated.api.jobs import get_job

client = Client(base_url=sys.argv[1])
assert get_job.sync(sys.argv[2], client=client, prefer="wait=1").state == "succeeded"
sys.stdout.buffer.write(get_job_weights.sync_detailed(sys.argv[2], client=client).content)
"""


def tool() -> str | None:
    own = BIN / TOOL
    return str(own) if own.exists() else shutil.which(TOOL)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the generated package."""
    found = tool()
    if found is None:
        pytest.skip(f"no {TOOL} here: `make tools`")
    folder = tmp_path_factory.mktemp("generated")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    environment = {**os.environ, "PATH": f"{Path(found).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [found, "generate", "--path", ROOT / "docs" / "openapi.json", "--config", "config.json",
         "--output-path", "generated", "--meta", "none", "--fail-on-warning"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(folder: Path, program: str, *arguments: str) -> bytes:
    """In the generator's environment, which has what generated code needs and nothing of ours."""
    python = Path(tool() or "").resolve().parent / "python"
    done = subprocess.run(
        [python, "-c", program, *arguments], cwd=folder, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_upload_submit_and_download(generated: Path, service: Served, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    model.write_bytes(model_bytes())
    base = str(service.client.base_url).rstrip("/")
    told = json.loads(run(generated, UPLOAD_AND_SUBMIT, base, str(model)))
    job = told.pop("job")
    assert told == {
        "sha256": sha256(model_bytes()),
        "filename": "m.st",
        "tensors": 2,
        "state": "queued",
        "listed": [job],
        "pointer": "/model",
        "absent": 404,
    }
    succeed(service.settings, job, DATA)
    assert run(generated, DOWNLOAD, base, job) == DATA
