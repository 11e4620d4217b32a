"""One service for all jobs of a run, and what is asked of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reproduce.data import CACHE, ROOT
from rankpress.client import Client
from rankpress.schemas.report import RankReport
from rankpress.schemas.request import JobRequest

START_SECONDS = 600  # on a machine where others work


@contextmanager
def service() -> Iterator[str]:
    """`rankpress serve` on a fresh folder; its URL."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="service-") as data:
        ready, log = Path(data) / "ready.json", CACHE / "service.log"
        command = ["serve", "--port", "0", "--data-dir", data, "--ready-file", str(ready)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "rankpress.cli", *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            end = time.monotonic() + START_SECONDS
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the service did not start; see {log}")
                time.sleep(0.05)
            yield str(json.loads(ready.read_text())["url"])
        finally:
            process.terminate()
            process.wait()


class Compressor:
    """Uploads each file once, submits and waits."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids: dict[Path, str] = {}

    def upload(self, path: Path) -> str:
        if path not in self._ids:
            self._ids[path] = self._client.upload(path).id
        return self._ids[path]

    def report(self, model: Path, fields: dict[str, Any]) -> RankReport:
        """The report of the first result; its frontier has them all."""
        document = {"model": self.upload(model), **fields}
        job = self._client.wait(self._client.submit(JobRequest.model_validate(document)).id)
        report = self._client.report(job.id)
        self._client.delete(job.id)
        return report

    def download(self, model: Path, out: Path, **fields: Any) -> RankReport:
        """Without an evaluation; the file goes to `out`."""
        document = {"model": self.upload(model), **fields}
        job = self._client.wait(self._client.submit(JobRequest.model_validate(document)).id)
        self._client.download(job.id, out)
        report = self._client.report(job.id)
        self._client.delete(job.id)
        return report
