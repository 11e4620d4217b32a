"""What tends API and worker, with small stand-ins for the two: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

import rankpress
from rankpress.cli import checkout, ports
from rankpress.cli.datadir import DataDir
from rankpress.cli.problems import Failed

T = TypeVar("T")

API = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

HTTPServer(("127.0.0.1", int(os.environ["RANKPRESS_PORT"])), Ready).serve_forever()
"""
# Notes its life and that of a compute process which it starts, as the worker does.
WORKER = """
import os, pathlib, signal, subprocess, sys, time
here = pathlib.Path(os.environ["HERE"])
{how}
compute = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with (here / "worker.pids").open("a") as file:
    file.write(f"{{os.getpid()}} {{compute.pid}}\\n")
time.sleep(600)
"""
ENDS_CLEANLY = """
def end(*_):
    compute.kill()
    (here / "ended").write_text("cleanly")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
"""
STUBBORN = "signal.signal(signal.SIGTERM, lambda *_: (here / 'asked').touch())"
MAIN = """
import os, sys
from pathlib import Path
from rankpress.cli.datadir import DataDir
from rankpress.cli.problems import run
from rankpress.cli.supervisor import Supervisor
here = Path(os.environ["HERE"])

def main():
    with DataDir.open(here / "data") as folder:
        Supervisor(
            environment=dict(os.environ),
            url=f"http://127.0.0.1:{os.environ['RANKPRESS_PORT']}",
            lock_descriptor=folder.children_descriptor,
            ready_file=here / "ready.json",
            grace_seconds=float(os.environ["GRACE"]),
            pause_seconds=0.01,
        ).run()

sys.exit(run(main))
"""


def until(look: Callable[[], T], what: str) -> T:
    """Looks until there is something; far more patient than any of it takes."""
    for _ in range(1200):
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


class Run:
    """One supervisor with its stand-ins."""

    def __init__(self, here: Path, worker: str, grace: float) -> None:
        self.here = here
        for name, code in (("app", API), ("worker", worker)):
            (here / name).mkdir(exist_ok=True)
            (here / name / "__init__.py").touch()
            (here / name / "__main__.py").write_text(code)
        repository = Path(rankpress.__file__).resolve().parent.parent
        self.port = ports.choose("127.0.0.1", 0)
        environment = {
            **os.environ,
            "PYTHONPATH": f"{here}{os.pathsep}{repository}",
            "HERE": str(here),
            "GRACE": str(grace),
            "RANKPRESS_PORT": str(self.port),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", MAIN],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        until((self.here / "ready.json").exists, "ready")

    def lives(self) -> list[tuple[int, int]]:
        """(worker, its compute process) of each life so far."""
        path = self.here / "worker.pids"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(a), int(b)) for a, b in (line.split() for line in lines if " " in line)]

    def everyone(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stdout, stderr


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def begin(worker: str = WORKER.format(how=ENDS_CLEANLY), grace: float = 60) -> Run:
        runs.append(Run(tmp_path, worker, grace))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            left = run.everyone()
            run.process.kill()
            run.process.communicate()
            for process in left:
                if process.is_running():
                    process.kill()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_ready_and_ends_both_cleanly(number: signal.Signals, start: Start) -> None:
    run = start()
    run.ready()
    until(run.lives, "worker started")
    said = json.loads((run.here / "ready.json").read_text())
    assert said == {"url": f"http://127.0.0.1:{run.port}", "pid": run.process.pid}
    processes = run.everyone()
    assert len(processes) == 3
    run.process.send_signal(number)
    code, stdout, stderr = run.end()
    assert (code, stdout) == (0, f"Rankpress is ready at http://127.0.0.1:{run.port}\n")
    assert "Traceback" not in stderr
    assert (run.here / "ended").read_text() == "cleanly"
    assert not (run.here / "ready.json").exists()
    until(lambda: gone(processes), "all gone")


def test_a_worker_that_is_killed_is_started_again(start: Start) -> None:
    run = start()
    run.ready()
    worker, compute = until(run.lives, "worker started")[0]
    orphan = psutil.Process(compute)
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(run.lives()) == 2, "second life")
    # What the dead one had started does not compute on beside the new one.
    until(lambda: gone([orphan]), "compute process gone")
    assert run.lives()[1][0] != worker
    run.process.terminate()
    code, _, stderr = run.end()
    assert code == 0
    assert "the worker process ended (-9); again in" in stderr


def test_a_worker_that_cannot_start_is_given_up(start: Start) -> None:
    run = start("import sys; sys.exit('no torch here')")
    code, _, stderr = run.end()
    assert code == 1
    assert stderr.count("no torch here") == 5
    assert "the worker process ended 5 times right after its start" in stderr
    assert "exit code 1" in stderr
    assert "Traceback" not in stderr


def test_children_die_with_a_killed_parent_and_the_folder_is_free_again(start: Start) -> None:
    first = start()
    first.ready()
    until(first.lives, "worker started")
    processes = first.everyone()
    first.process.kill()
    first.process.communicate()
    second = start()
    until(lambda: len(first.lives()) == 2, "the second run's worker")
    # The second run's worker starts after the first one's has ended.
    assert gone(processes)
    second.process.terminate()
    assert second.end()[0] == 0


def test_a_stubborn_child_is_killed_after_the_grace(start: Start) -> None:
    run = start(WORKER.format(how=STUBBORN), grace=0.2)
    run.ready()
    until(run.lives, "worker started")
    processes = run.everyone()
    run.process.terminate()
    assert run.end()[0] == 0
    assert (run.here / "asked").exists()
    until(lambda: gone(processes), "all gone")


def test_a_second_signal_shortens_the_grace(start: Start) -> None:
    run = start(WORKER.format(how=STUBBORN), grace=100_000)
    run.ready()
    until(run.lives, "worker started")
    run.process.terminate()
    until((run.here / "asked").exists, "asked to end")
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 0


def test_a_second_serve_on_the_folder_says_so(start: Start) -> None:
    run = start()
    run.ready()
    with pytest.raises(Failed, match="another `rankpress serve` uses the data folder"):
        DataDir.open(run.here / "data")


def test_it_waits_for_the_processes_of_an_earlier_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = DataDir.open(tmp_path)
    kept = os.dup(first.children_descriptor)
    with first:
        pass
    with pytest.raises(Failed, match="an earlier run still use"):
        DataDir.open(tmp_path, wait_seconds=0)
    timer = threading.Timer(0.3, os.close, [kept])
    timer.start()
    with DataDir.open(tmp_path):
        assert "waiting for the processes of an earlier run" in capsys.readouterr().err
    timer.join()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        # Said by hand: the tests may run as root, who writes everywhere.
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Failed, match=f"cannot be written by user {os.getuid()}"):
        DataDir.open(tmp_path / "data")


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(Failed, match="cannot be written by user"):
        DataDir.open(tmp_path / "data")


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Failed, match="is in use; choose another"):
            ports.choose("127.0.0.1", taken.getsockname()[1])
    free = ports.choose("127.0.0.1", 0)
    assert ports.choose("127.0.0.1", free) == free
    with pytest.raises(Failed, match="no address of this machine"):
        ports.choose("203.0.113.7", 0)
    assert ports.url("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert ports.url("::1", 1) == "http://[::1]:1"


def test_the_code_is_found_or_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = checkout.find()
    assert (root / "worker" / "__main__.py").is_file()
    assert checkout.environment(root)["PYTHONPATH"].split(os.pathsep)[0] == str(root)
    installed = tmp_path / "site-packages" / "rankpress" / "__init__.py"
    monkeypatch.setattr(rankpress, "__file__", str(installed))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failed, match="runs from a checkout or the container image"):
        checkout.find()
    # A caller's own `app` beside them is not taken for the service's.
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").touch()
    with pytest.raises(Failed, match="runs from a checkout"):
        checkout.find()
    monkeypatch.chdir(root)
    assert checkout.find() == root
