"""Every command and every piece of code in the documentation, run as it stands there.

A page's blocks of `console` and `python` run in their order, in one shell and one Python, in a
folder with the examples. A block after `<!-- not run: WHY -->` is left out; nothing else is.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:8000"
GUARD_SECONDS = 900  # against hanging for ever, on a busy machine too
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why>.+?) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
RUN = ("console", "python")
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    why: str | None  # it is not run


def blocks(page: Path) -> list[Block]:
    found = FENCE.finditer(page.read_text())
    return [Block(m["kind"], m["text"], m["why"]) for m in found if m["kind"] in RUN]


def script(page: Path) -> str:
    """One shell script; a page's Python is one program, so that later blocks know earlier names,
    run where its last block stands or before the first command that follows it."""
    lines, program = ["set -euo pipefail"], ""
    for block in blocks(page):
        if block.why is not None:
            continue
        if block.kind == "python":
            program += block.text + "\n"
            continue
        lines += _python(program)
        program = _imports(program)
        joined = block.text.replace("\\\n", " ")
        lines += [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
    return "\n".join([*lines, *_python(program)]) + "\n"


def _python(program: str) -> list[str]:
    if not re.sub(r"^(import|from) .*$", "", program, flags=re.M).strip():
        return []
    return ["python - <<'END_OF_PYTHON'", program, "END_OF_PYTHON"]


def _imports(program: str) -> str:
    return "".join(f"{line}\n" for line in re.findall(r"^(?:import|from) .*$", program, re.M))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The examples, and `python` and `rankpress` as an activated environment has them."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")  # files are written beside models
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, arguments in (("python", ""), ("rankpress", "-m rankpress.cli")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (tools / name).chmod(0o755)
    return tmp_path


def run(text: str, folder: Path, url: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RANKPRESS_")}
    done = subprocess.run(
        ["bash", "-c", text.replace(ADDRESS, url).replace("Client()", f'Client("{url}")')],
        cwd=folder,
        env={
            **clean,
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "RANKPRESS_URL": url,
        },
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def runs_something(page: Path) -> bool:
    return any(block.why is None for block in blocks(page))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if runs_something(p) and p.name != "choosing-tau.md"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_page(page: Path, folder: Path, service_url: str) -> None:
    run(script(page), folder, service_url)


@pytest.mark.slow
def test_choosing_tau_and_its_table(folder: Path, service_url: str) -> None:
    page = ROOT / "docs" / "choosing-tau.md"
    run(script(page), folder, service_url)
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) % \| ([\d.]+) % \|$", page.read_text(), re.M)
    with (folder / "frontier.csv").open(newline="") as file:
        measured = list(csv.DictReader(file))
    assert len(rows) == len(measured) > 0
    for (tau, share, accuracy), row in zip(rows, measured, strict=True):
        assert float(tau) == float(row["threshold"])
        assert float(share) == pytest.approx(100 * float(row["parameters_share"]), abs=0.05)
        # Another CPU sums in another order: a few of 2,000 images may change sides.
        assert float(accuracy) == pytest.approx(100 * float(row["accuracy"]), abs=0.25)


def test_what_is_not_run_says_why() -> None:
    for page in PAGES:
        text = page.read_text()
        marks = len(re.findall(r"^<!-- not run", text, re.M))
        assert marks == sum(block.why is not None for block in blocks(page)), page
        assert not re.search(r"^```(bash|sh|shell)$", text, re.M), f"{page}: commands are `console`"


def test_blocks_run_in_order_with_what_was_imported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nimport os\nx = 1\n```\n```python\nprint(x)\n```\n"
        "```console\n$ echo a \\\n    b\noutput\n```\n"
        "<!-- not run: no -->\n```console\n$ false\n```\n```python\nprint(os.sep)\n```\n"
    )
    done = subprocess.run(
        ["bash", "-c", script(page).replace("python -", f"{sys.executable} -")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\na b\n/\n"
