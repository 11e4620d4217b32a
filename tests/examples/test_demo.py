"""`make demo`, as a process: what it shows, and that it leaves nothing running."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
GUARD_SECONDS = 240  # against hanging for ever


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "demo.py", "--folder", folder, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()


def wait_for_start(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The service's processes, once the demo says that it is ready."""
    assert process.stdout is not None
    assert "service   http://127.0.0.1:" in process.stdout.readline()
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3  # serve, API, worker
    return started


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=30)[1]


def test_demo_shows_before_and_after(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        output, errors = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 0, output + errors
    for layer in ("hidden1.weight", "hidden2.weight"):
        assert re.search(rf"{layer}.*\d+ of \d+.*factorised", output), output
    assert re.search(r"output.weight.*output_protected", output)
    accuracy = re.search(r"^accuracy\s+([\d.]+)% before, ([\d.]+)% after$", output, re.M)
    assert accuracy is not None
    assert float(accuracy[1]) == pytest.approx(91.10, abs=0.05)
    assert float(accuracy[2]) == pytest.approx(float(accuracy[1]), abs=1.0)
    assert re.search(r"^macro_f1\s+[\d.]+% before, [\d.]+% after$", output, re.M)
    size = re.search(r"^file\s+([\d,]+) bytes before, ([\d,]+) after", output, re.M)
    assert size is not None
    written = tmp_path / "model-compressed.safetensors"
    assert re.search(rf"^written\s+{re.escape(str(written))}$", output, re.M)
    assert written.stat().st_size == int(size[2].replace(",", ""))
    assert written.stat().st_size < int(size[1].replace(",", ""))
    with safe_open(written, framework="pt") as file:
        assert {"hidden1.0.weight", "hidden1.1.weight", "hidden1.1.bias"} <= set(file.keys())
    assert sorted(p.name for p in tmp_path.iterdir()) == [written.name, "service.log"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_stops_what_it_started(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as process:
        started = wait_for_start(process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert running(started) == []
    assert not list(tmp_path.glob("service-*"))


def test_demo_says_what_is_wrong_and_stops(tmp_path: Path) -> None:
    with demo(tmp_path, "--threshold", "1.5") as process:
        started = wait_for_start(process)
        _, errors = process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 1
    assert "Invalid request" in errors
    assert "threshold" in errors
    assert "Traceback" not in errors
    assert running(started) == []
