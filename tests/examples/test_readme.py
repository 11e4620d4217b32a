"""The commands and the code of README's first screen, run as they stand there."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rankpress.schemas.job import Job
from rankpress.schemas.report import RankReport

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "fashion_mnist"
ADDRESS = "http://127.0.0.1:8000"
README = (ROOT / "README.md").read_text()
GUARD_SECONDS = 240  # against hanging for ever
WAITS = 10  # of up to a minute: a busy machine takes more than one


# What a console block of these pages may begin with, and what runs it. Here: curl and rankpress.
RUN_BY = {
    "README.md": {
        "curl": "test_curl_goes_from_upload_to_weights",
        ".venv/bin/rankpress compress": "test_command_line_compresses",
        ".venv/bin/rankpress frontier": "test_command_line_compares_and_looks",
        ".venv/bin/rankpress inspect": "test_command_line_compares_and_looks",
        ".venv/bin/rankpress doctor": "test_command_line_compares_and_looks",
        "make demo": "test_demo.py runs its script; TORCH_INDEX names an index of the reader's",
        "make test": "it runs the tests, and is run by .ci/run",
    },
    "CONTRIBUTING.md": {
        "make install": "by .ci/run, before the tests, which run in what it makes",
        "make test": "by .ci/run",
        "make lint types": "by .ci/run, one after the other",
        "make check": "the two lines above it",
        "make image containers": "by hand, on a machine with a container engine: test_images.py",
        ".ci/run": "by CI",
    },
    "examples/fashion_mnist/README.md": {
        "python examples/fashion_mnist/train.py --check": "test_fashion_mnist.py",
        "python examples/fashion_mnist/train.py --data": "the same training, but it overwrites "
        "the example's model",
    },
}


@pytest.mark.parametrize("page", RUN_BY)
def test_every_command_is_run_by_something(page: str) -> None:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.S)
    found = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    known = RUN_BY[page]
    assert [c for c in found if not c.startswith(tuple(known))] == []
    assert [start for start in known if not any(c.startswith(start) for c in found)] == []


def test_no_other_page_has_commands() -> None:
    """docs/ is run by test_docs_commands.py, whatever stands there."""
    tracked = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pages = [p for p in tracked.stdout.split() if not p.startswith("docs/")]
    having = {p for p in pages if re.search("^```(console|bash|sh)", (ROOT / p).read_text(), re.M)}
    assert having == set(RUN_BY)


@pytest.fixture
def url(service_url: str) -> str:
    """`rankpress serve`, as the README starts it but for its port and folder."""
    assert ".venv/bin/rankpress serve`" in README
    return service_url


def commands(start: str) -> list[str]:
    """Commands of the README's console blocks that start so, continued lines joined."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.S)
    lines = [line for b in blocks for line in b.replace("\\\n", " ").splitlines()]
    found = [line.removeprefix("$ ") for line in lines if line.startswith(f"$ {start}")]
    assert found, start
    return found


def run(command: str, **variables: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sequential() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        OrderedDict(
            hidden1=torch.nn.Linear(784, 512),
            relu1=torch.nn.ReLU(),
            hidden2=torch.nn.Linear(512, 256),
            relu2=torch.nn.ReLU(),
            output=torch.nn.Linear(256, 10),
        )
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_goes_from_upload_to_weights(url: str, tmp_path: Path) -> None:
    smaller = tmp_path / "smaller.safetensors"
    submit, wait, report, download = (
        c.replace(ADDRESS, url).replace("smaller.safetensors", shlex.quote(str(smaller)))
        for c in commands("curl")
    )
    job = Job.model_validate(json.loads(run(submit)))
    for _ in range(WAITS):
        job = Job.model_validate(json.loads(run(wait, ID=job.id)))
        if job.state.terminal:
            break
    assert job.state == "succeeded", job.error
    found = RankReport.model_validate(json.loads(run(report, ID=job.id)))
    assert found.evaluation is not None
    run(download, ID=job.id)
    assert smaller.stat().st_size == found.bytes_after
    assert "hidden1.0.weight" in load_file(smaller)


@pytest.mark.parametrize("name", ["frontier", "inspect", "doctor"])
def test_command_line_compares_and_looks(url: str, name: str) -> None:
    (command,) = commands(f".venv/bin/rankpress {name}")
    python = f"{shlex.quote(sys.executable)} -m rankpress.cli"
    output = run(command.replace(".venv/bin/rankpress", python), RANKPRESS_URL=url)
    assert {"frontier": "entropy 0.7", "inspect": "512 x 784", "doctor": "service"}[name] in output


def test_command_line_compresses(url: str, tmp_path: Path) -> None:
    (command,) = commands(".venv/bin/rankpress compress")
    smaller = tmp_path / "smaller.safetensors"
    command = command.replace(
        ".venv/bin/rankpress", f"{shlex.quote(sys.executable)} -m rankpress.cli"
    )
    command = command.replace("smaller.safetensors", shlex.quote(str(smaller)))
    output = run(command, RANKPRESS_URL=url)
    assert "macro_f1" in output
    assert "hidden1.0.weight" in load_file(smaller)


def test_python_code_compresses_and_loads(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = re.search(r"```python\n(.*?)```", README, re.S)
    assert block is not None
    shutil.copy(EXAMPLE / "model.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"model": sequential()}
    exec(block[1].replace(ADDRESS, url), names)
    before, after = map(int, capsys.readouterr().out.split())
    assert after < before
    model = names["model"]
    assert isinstance(model, torch.nn.Module)
    assert sum(p.numel() for p in model.parameters()) == after
    data = load_file(EXAMPLE / "validation.safetensors")
    with torch.no_grad():
        guesses = model(data["inputs"].float()).argmax(1)
    assert (guesses == data["targets"]).double().mean().item() > 0.90
