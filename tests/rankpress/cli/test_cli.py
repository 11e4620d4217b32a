"""The commands as processes: what is printed where, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rankpress.cli.text import plain, share, size
from rankpress.errors import InvalidRequest, NotFound
from rankpress.schemas.problem import ProblemItem
from tests.rankpress.client.fakeservice import (
    Reply,
    Seen,
    make_job,
    problem,
    running,
    whole_service,
)

WEIGHTS = b"compressed weights"


def cli(*arguments: str, url: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RANKPRESS_")}
    return subprocess.run(
        [sys.executable, "-m", "rankpress.cli", *arguments],
        env={**clean, **environment, **({"RANKPRESS_URL": url} if url else {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"dense")
    return path


def test_compress_prints_the_table_and_where_the_file_lies(model: Path) -> None:
    with running(whole_service(WEIGHTS)) as service:
        done = cli("compress", str(model), "--threshold", "0.9", url=service.url)
    assert (done.returncode, done.stderr) == (0, "")
    written = model.with_name("net-compressed.safetensors")
    assert written.read_bytes() == WEIGHTS
    for text in (
        "2 of 4",
        "kept_dense: output_protected",
        "83.3 %",  # 20 of 24 parameters
        "accuracy",
        "-0.01 [-0.02, +0]",
        "1,240",
        str(written),
    ):
        assert text in done.stdout, text
    # A tensor's name cannot colour the terminal, neither by escape codes nor by markup.
    assert "\N{REPLACEMENT CHARACTER}[31m[red]0.weight" in done.stdout
    assert "\x1b" not in done.stdout


def test_compress_for_scripts(model: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "small.bin", tmp_path / "o.json"
    options.write_text('{"labels": {"run": "42"}, "protect_output": false}')
    with running(whole_service(WEIGHTS)) as service:
        done = cli(
            *("compress", str(model), "-t", "0.9", "--rule", "energy", "-o", str(out), "--json"),
            *("--validation", str(options), "--options", f"@{options}", "--url", service.url),
            RANKPRESS_API_KEY="secret",
        )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["path"] == str(out)
    assert found["job"]["state"] == "succeeded"
    assert found["report"]["layers"][0]["rank"] == 2
    (body,) = (json.loads(s.body) for s in service.seen if s.path == "/v1/jobs")
    assert body == {
        "model": "up_1",
        "threshold": 0.9,
        "rule": "energy",
        "protect_output": False,
        "labels": {"run": "42"},
        "evaluation": {"validation": "up_2"},
    }
    assert {s.headers["authorization"] for s in service.seen} == {"Bearer secret"}


def test_jobs_report_download_cancel(tmp_path: Path) -> None:
    out = tmp_path / "w"
    with running(whole_service(WEIGHTS)) as service:
        table = cli("jobs", "--state", "running", url=service.url)
        listed = cli("jobs", "--json", "--limit", "1", url=service.url)
        report = cli("report", "j1", url=service.url)
        as_json = cli("report", "j1", "--json", url=service.url)
        download = cli("download", "j1", str(out), url=service.url)
        cancel = cli("cancel", "j1", url=service.url)
    results = (table, listed, report, as_json, download, cancel)
    assert [(r.returncode, r.stderr) for r in results] == [(0, "")] * 6
    assert "factorise" in table.stdout
    assert [j["id"] for j in json.loads(listed.stdout)] == ["j1"]
    assert "Ranks (entropy, threshold 0.9)" in report.stdout
    assert json.loads(as_json.stdout)["parameters_after"] == 56
    assert (out.read_bytes(), download.stdout) == (WEIGHTS, f"{out}\n")
    assert cancel.stdout == "canceled\n"
    assert "state=running" in service.seen[0].path


def test_a_problem_is_said_with_its_pointers() -> None:
    items = (ProblemItem(pointer="/threshold", detail="too \x1b[2J large"),)
    with running(problem(InvalidRequest("see errors", errors=items))) as service:
        done = cli("cancel", "j1", url=service.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: Invalid request: see errors\n  /threshold: too \N{REPLACEMENT CHARACTER}[2J large\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compress", "missing.pt", "-t", "0.9"], "no file missing.pt"),
        (["compress", "missing.pt", "-t", "7"], "/threshold"),
        (["compress", "missing.pt"], "threshold: required by the rule entropy"),
        (["report", "j1"], "Not found: no job"),
        (["jobs", "--url", "nonsense"], "must start with http://"),
    ],
)
def test_expected_failures_end_with_1_and_a_sentence(arguments: list[str], said: str) -> None:
    with running(problem(NotFound("no job"))) as service:
        done = cli(*arguments, url=service.url)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["compress"],
        ["compress", "x", "--threshold", "much"],
        ["compress", "x", "--rule", "guess"],
        ["compress", "x", "--options", "{"],
        ["compress", "x", "--options", "[]"],
        ["compress", "x", "--options", '{"model": "up_1"}'],
        ["compress", "x", "--options", "@/nonexistent"],
        ["jobs", "--state", "asleep"],
        ["serve", "--port", "65536"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_an_interrupted_wait_names_the_job_that_goes_on(model: Path) -> None:
    running_job = make_job("running", stage="factorise")
    asked = threading.Event()
    whole = whole_service(WEIGHTS)

    def handle(reply: Reply, seen: Seen) -> None:
        if seen.path == "/v1/jobs/j1":
            reply.send_model(running_job)
            asked.set()
        else:
            whole(reply, seen)

    with running(handle) as service:
        process = subprocess.Popen(
            [sys.executable, "-m", "rankpress.cli", "compress", str(model), "-t", "0.9"],
            env={**os.environ, "RANKPRESS_URL": service.url},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert asked.wait(30)
        asked.clear()
        assert asked.wait(30)  # the first answer has been read: it asks again
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "job j1 goes on; to end it: rankpress cancel j1" in stderr
    assert "Traceback" not in stderr


def test_version_and_help() -> None:
    assert cli("--version").stdout.strip() == __import__("rankpress").__version__
    done = cli("--help")
    assert done.returncode == 0
    assert all(c in done.stdout for c in ("compress", "serve", "report", "cancel", "jobs"))


def test_without_its_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from rankpress.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "pip install 'rankpress[cli]'" in done.stderr


def test_text() -> None:
    assert plain("a\x1b]0;b\x07\u202ec\n") == "a\ufffd]0;b\ufffd\ufffdc\n"
    assert [size(n) for n in (0, 1023, 1536, 5 * 2**30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
    assert (share(1, 3), share(0, 0)) == ("33.3 %", "-")
