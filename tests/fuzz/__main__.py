"""`make fuzz`: hostile files through a running service, which must survive all of them.

python -m tests.fuzz [--inputs 5000] [--seed 0] [--data-dir DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.end_to_end.processes import Service
from tests.fuzz.campaign import Campaign, Count
from tests.fuzz.inputs import inputs


def run(count: int, seed: int, folder: Path) -> Count:
    """Raises `AssertionError` at the first thing that must not happen."""
    service = Service(folder, max_requests_per_second="0")
    try:
        service.start_api()
        service.start_worker()
        return Campaign(service, seed).run(inputs(count, seed), lambda c: print(c, flush=True))
    finally:
        service.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, help="kept afterwards; else a temporary folder")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rankpress-fuzz-") as temporary:
        folder = arguments.data_dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        count = run(arguments.inputs, arguments.seed, folder)
    print(f"done in {time.monotonic() - started:.0f} s, seed {arguments.seed}: {count}")
    print("no 5xx, no crash of the API, no worker lost, nothing left on disk")


if __name__ == "__main__":
    main()
