"""The service as real processes for a benchmark, on a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.layersets import ROOT

START_SECONDS = 120.0


@contextmanager
def serving(workers: int = 1) -> Iterator[str]:
    """API and workers, each of one job at once; gives the URL. All is stopped and removed."""
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rankpress-bench-")))
        ready = data / "ready.json"
        cores = os.cpu_count() or 1
        environment = {
            **os.environ,
            "RANKPRESS_LOG_LEVEL": "error",
            "RANKPRESS_MAX_REQUESTS_PER_SECOND": "0",
            "RANKPRESS_THREADS": str(max(1, cores // workers)),
        }
        command = ["serve", "--port", "0", "--data-dir", str(data), "--ready-file", str(ready)]
        served = stack.enter_context(_process(["-m", "rankpress.cli", *command], environment))
        url = _wait(ready, served)
        for number in range(2, workers + 1):
            named = {**environment, "RANKPRESS_WORKER_NAME": f"worker-{number}"}
            stack.enter_context(
                _process(["-m", "rankpress.cli", "worker", "--data-dir", str(data)], named)
            )
        yield url


@contextmanager
def _process(
    arguments: list[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(ready: Path, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        if ready.exists() and (text := ready.read_text()):
            url: str = json.loads(text)["url"]
            return url
        time.sleep(0.05)
    raise RuntimeError("the service did not start")
