"""The second half of `make memory`: 2 GB go up and come down, and what the client's process holds.

python -m tests.end_to_end.client_memory [--size-bytes 2000000000] [--data-dir DIR]

The defaults need about 8 GB of disk. Resident memory is what counts, since the client maps no file:
the most that it ever was, beyond what it is once the first small request is answered.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.end_to_end.processes import ROOT, running

MIB = 1024**2
CLIENT_LIMIT = 32 * MIB
KINDS = ("sync", "async")
PART_BYTES = 8 * MIB


@dataclass(frozen=True, kw_only=True)
class Held:
    """Resident bytes of the client's process."""

    kind: str
    sent_bytes: int
    received_bytes: int
    idle: int
    peak: int

    @property
    def beyond_idle(self) -> int:
        return self.peak - self.idle

    def __str__(self) -> str:
        return (
            f"{self.kind} client: {self.sent_bytes / 1e9:.2f} GB up, "
            f"{self.received_bytes / 1e9:.2f} GB down; {self.beyond_idle / MIB:.1f} MiB beyond "
            f"the {self.idle / MIB:.0f} MiB of idling"
        )


def write_checkpoint(path: Path, size_bytes: int) -> None:
    """Vectors, which are copied as they are, and a matrix of rank 1, so that the file that comes
    back is another one. The vectors' numbers do not matter: the same stand in each."""
    vector = np.random.default_rng(0).standard_normal(PART_BYTES // 4, dtype=np.float32)
    parts = range(size_bytes // PART_BYTES)
    save_file({"w": np.ones((64, 32), np.float32), **{f"v{i}": vector for i in parts}}, path)


def measure(folder: Path, size_bytes: int, kind: str) -> Held:
    """Upload, job and download of one file by a client in a process of its own."""
    source, target = folder / "model.safetensors", folder / "small.safetensors"
    write_checkpoint(source, size_bytes)
    (folder / "data").mkdir()
    with running(folder / "data") as service:
        command = ["-m", "tests.end_to_end.client_process", kind, service.url, source, target]
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
    return Held(
        kind=kind,
        sent_bytes=source.stat().st_size,
        received_bytes=target.stat().st_size,
        **json.loads(done.stdout),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.end_to_end.client_memory")
    parser.add_argument("--size-bytes", type=int, default=2 * 10**9)
    parser.add_argument("--data-dir", type=Path, help="a folder with room; else a temporary one")
    arguments = parser.parse_args()
    for kind in KINDS:
        with tempfile.TemporaryDirectory(prefix="rankpress-memory-", dir=arguments.data_dir) as f:
            held = measure(Path(f), arguments.size_bytes, kind)
        print(held, flush=True)
        if held.beyond_idle > CLIENT_LIMIT:
            raise SystemExit(f"more than {CLIENT_LIMIT // MIB} MiB")


if __name__ == "__main__":
    main()
