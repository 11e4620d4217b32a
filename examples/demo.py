"""`make demo`: starts the service, compresses a real model through it, shows what came of it.

Two processes (API and worker) on a fresh folder, 127.0.0.1 and a free port; over HTTP go the
model and 2,000 validation images of `examples/fashion_mnist`. Whatever happens, what was started
is stopped; the compressed file stays in `.demo`.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rankpress.cli import tables
from rankpress.cli.progress import Bars
from rankpress.client import Client, Compressed
from rankpress.errors import RankpressError

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "fashion_mnist"
START_SECONDS = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threshold", type=float, default=0.9, help="tau in (0, 1]")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="for the result")
    options = parser.parse_args()
    # A terminated demo leaves by the same way as an interrupted one: through every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        with service(options.folder) as url:
            print(f"service   {url} (API and worker, stopped at the end)", flush=True)
            done = compress(url, options.threshold, options.folder)
    except KeyboardInterrupt:
        print("interrupted; the service is stopped", file=sys.stderr)
        return 130
    except RankpressError as error:
        print(f"{error.title}: {error.detail}", file=sys.stderr)
        return 1
    show(done)
    return 0


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """`rankpress serve` on a fresh data folder; gives its URL once it is ready, and ends it."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="service-") as data:
        ready, log = Path(data) / "ready.json", folder / "service.log"
        command = ["serve", "--port", "0", "--data-dir", data, "--ready-file", str(ready)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "rankpress.cli", *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C comes to this script, which then stops it
            )
        try:
            yield wait_until_ready(process, ready, log)
        finally:
            process.terminate()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> str:
    """The service's URL. Raises RankpressError when it ended, or is not ready in time."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        if ready.exists():
            url: str = json.loads(ready.read_text())["url"]
            return url
        time.sleep(0.05)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RankpressError(f"the service did not start; the end of {log}:\n{tail}")


def compress(url: str, threshold: float, folder: Path) -> Compressed:
    """Upload, job, wait, report, download."""
    bars = Bars()
    with Client(url) as client, bars:
        return client.compress(
            EXAMPLE / "model.safetensors",
            validation=EXAMPLE / "validation.safetensors",
            out=folder / "model-compressed.safetensors",
            watch=bars.watchers(),
            threshold=threshold,
        )


def show(done: Compressed) -> None:
    out = tables.console()
    tables.print_report(out, done.report)
    assert done.report.evaluation is not None
    for metric in done.report.evaluation.metrics:
        if metric.name in ("accuracy", "macro_f1"):
            dense, compressed = metric.dense or 0.0, metric.compressed or 0.0
            print(f"{metric.name:9} {dense:.2%} before, {compressed:.2%} after")
    before, after = done.report.bytes_before, done.report.bytes_after
    print(f"file      {before:,} bytes before, {after:,} after ({after / before:.1%})")
    print(f"written   {done.path}")


if __name__ == "__main__":
    raise SystemExit(main())
