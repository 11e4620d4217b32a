"""`make memory`: a large synthetic checkpoint through the service, and what the processes hold.

python -m tests.end_to_end.memory [--layers 128] [--rows 49152] [--columns 512] [--data-dir DIR]

The defaults make 6.4 GB of bfloat16 and need about 20 GB of disk. Private memory is what counts:
anonymous pages of worker and compute processes beyond what they hold when idle, and of the API.
Mapped pages of the file do not, since the system may drop them at any time.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from rankpress import Client
from rankpress.names import Action
from tests.end_to_end.processes import Service

MIB = 1024**2
WORKER_LIMIT = 1536 * MIB
API_LIMIT = 250 * MIB
RANK = 8
TELL_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Shape:
    layers: int
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        return self.layers * self.rows * self.columns * 2


def write_checkpoint(path: Path, shape: Shape) -> None:
    """bfloat16 layers [rows, columns], low rank plus noise. The same layer is written again with
    another first row, so that making it takes the disk's time and not the generator's."""
    generator = np.random.default_rng(0)
    left = generator.standard_normal((shape.rows, RANK), dtype=np.float32)
    right = generator.standard_normal((RANK, shape.columns), dtype=np.float32)
    layer = left @ right
    layer += 0.01 * generator.standard_normal(layer.shape, dtype=np.float32)
    octets = (layer.view(np.uint32) >> 16).astype(np.uint16)
    entries, at = {}, 0
    for i in range(shape.layers):
        entries[f"layers.{i:03d}.weight"] = {
            "dtype": "BF16",
            "shape": [shape.rows, shape.columns],
            "data_offsets": [at, at + octets.nbytes],
        }
        at += octets.nbytes
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for i in range(shape.layers):
            octets[0] = np.uint16(0x3F80 + i)
            file.write(octets.data)


def private_bytes(process: psutil.Process) -> int:
    """Anonymous memory of one process, pages that a fork shares by equal parts: their sum over
    processes is what the machine gives. Linux's smaps_rollup."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text("ascii")
    except OSError:
        return 0  # it has just ended
    found = re.search(r"^Pss_Anon:\s+(\d+) kB", text, re.M)
    return int(found[1]) * 1024 if found else 0


@dataclass
class Sampler:
    """The peaks of worker with children, and of the API, over what they had at the start."""

    service: Service
    worker_idle: int = 0
    worker_peak: int = 0
    api_peak: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._worker = psutil.Process(self.service.workers["worker-1"].pid)
        assert self.service.api is not None
        self._api = psutil.Process(self.service.api.pid)

    def __enter__(self) -> Sampler:
        self.worker_idle = self._of_worker()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def worker_beyond_idle(self) -> int:
        return self.worker_peak - self.worker_idle

    def _of_worker(self) -> int:
        try:
            processes = [self._worker, *self._worker.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        return sum(private_bytes(p) for p in processes)

    def _sample(self) -> None:
        told = time.monotonic()
        while not self._stop.wait(0.05):
            self.worker_peak = max(self.worker_peak, self._of_worker())
            self.api_peak = max(self.api_peak, private_bytes(self._api))
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                print(self, flush=True)

    def __str__(self) -> str:
        return (
            f"so far: worker and compute process {self.worker_beyond_idle / MIB:.0f} MiB beyond "
            f"idling, API {self.api_peak / MIB:.0f} MiB"
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    worker_beyond_idle: int
    worker_idle: int
    api: int
    factorised: int
    bytes_before: int
    bytes_after: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.bytes_before / 1e9:.1f} GB to {self.bytes_after / 1e9:.2f} GB, "
            f"{self.factorised} layers, in {self.seconds:.0f} s; private memory of worker and "
            f"compute process {self.worker_beyond_idle / MIB:.0f} MiB beyond the "
            f"{self.worker_idle / MIB:.0f} MiB of idling, of the API {self.api / MIB:.0f} MiB"
        )


def measure(folder: Path, shape: Shape, **settings: str) -> Measured:
    """Upload, job, download of one checkpoint."""
    model = folder / "model.safetensors"
    write_checkpoint(model, shape)
    (folder / "data").mkdir()
    service = Service(folder / "data", **settings)
    try:
        service.start_api()
        service.start_worker()
        with Client(service.url, timeout=600) as client:
            # A first small job: the server that compute processes are forked from is there.
            client.compress({"w": _small()}, threshold=0.9, protect_output=False)
            started = time.monotonic()
            with Sampler(service) as sampler:
                upload = client.upload(model)
                model.unlink()
                job = client.submit(model=upload.id, threshold=0.9, rule="energy")
                client.wait(job.id)
                report = client.report(job.id)
                client.download(job.id, folder / "out.safetensors")
            return Measured(
                worker_beyond_idle=sampler.worker_beyond_idle,
                worker_idle=sampler.worker_idle,
                api=sampler.api_peak,
                factorised=sum(x.action is Action.FACTORISED for x in report.layers),
                bytes_before=report.bytes_before,
                bytes_after=report.bytes_after,
                seconds=time.monotonic() - started,
            )
    finally:
        service.stop()


def _small() -> object:
    import torch

    return torch.ones(64, 32)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.end_to_end.memory", description=__doc__)
    parser.add_argument("--layers", type=int, default=128)
    parser.add_argument("--rows", type=int, default=49152)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--data-dir", type=Path, help="a folder with room; else a temporary one")
    arguments = parser.parse_args()
    shape = Shape(layers=arguments.layers, rows=arguments.rows, columns=arguments.columns)
    with tempfile.TemporaryDirectory(prefix="rankpress-memory-", dir=arguments.data_dir) as folder:
        measured = measure(Path(folder), shape)
    print(measured)
    if measured.worker_beyond_idle > WORKER_LIMIT or measured.api > API_LIMIT:
        raise SystemExit(f"more than {WORKER_LIMIT // MIB} or {API_LIMIT // MIB} MiB")


if __name__ == "__main__":
    main()
