"""`make chaos`: random faults under running jobs, then a count that must agree.

    python -m tests.chaos [--jobs 50] [--faults 200] [--workers 2] [--seed 0] [--database URL]

With RANKPRESS_TEST_POSTGRES_URL set, or --database, a fresh PostgreSQL database is used; otherwise
SQLite. Ends with exit status 1 when anything was lost, doubled or changed.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rankpress import Client
from rankpress.service.settings import Settings
from tests.chaos.callers import Callers, carry_out, orders
from tests.chaos.cluster import Cluster
from tests.chaos.counts import Counts, count
from tests.chaos.faults import Faults
from tests.end_to_end.databases import fresh_database

CALLERS = 4
# Between two faults, times what a worker's start takes: on a busy machine all takes longer, and a
# worker that is killed before it is ready shows nothing.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 1.4


def undisturbed(folder: Path) -> tuple[dict[int, str], float]:
    """The SHA-256 of every order's result, and the seconds that one round takes in peace."""
    wanted = orders(folder / "models")
    with Cluster(folder / "undisturbed", workers=1).running() as cluster:
        started = time.monotonic()
        with Client(cluster.url) as client:
            found = {
                at: carry_out(client, order, at, f"undisturbed-{at}", folder).sha256
                for at, order in enumerate(wanted)
            }
    return found, time.monotonic() - started


def disturbed(
    folder: Path,
    expected: dict[int, str],
    *,
    jobs: int,
    faults: int,
    workers: int,
    seed: int,
    database_url: str = "",
) -> tuple[Faults, Counts, int]:
    settings = {"database_url": database_url} if database_url else {}
    chance = random.Random(seed)
    with Cluster(folder / "disturbed", workers=workers, **settings).running() as cluster:
        doing = Faults(cluster, chance)
        callers = Callers(
            cluster.url,
            orders(folder / "models"),
            jobs,
            folder / "results",
            # Spread over the faults, so that there is always something to disturb.
            may_start=lambda number: doing.done.total() >= (number - CALLERS) * faults / jobs,
        )
        threads = callers.start(CALLERS)
        while doing.done.total() < faults:
            doing.one()
            time.sleep(chance.uniform(SHORTEST_PAUSE, LONGEST_PAUSE) * cluster.start_seconds)
        for thread in threads:
            thread.join()
        found = count(
            cluster.url,
            cluster.service.settings,
            jobs=jobs,
            results=callers.results,
            failures=callers.failures,
            expected=expected,
        )
        if found.wrong:
            found = replace(found, wrong=(*found.wrong, *errors(cluster.service.settings)))
        return doing, found, cluster.restarts


def errors(settings: Settings) -> Iterator[str]:
    """What the processes logged as errors, and the compute processes' tracebacks: why something is
    wrong, should something be."""
    log = settings.data_dir / "processes.log"
    within = False
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("Traceback "):
            within = True
        if within or '"level": "error"' in line:
            yield f"log: {line}"
        if not line.startswith((" ", "Traceback ")):
            within = False  # the exception itself, after its frames


@contextmanager
def _database(server: str) -> Iterator[str]:
    if not server:
        yield ""
        return
    with fresh_database(server) as url:
        yield url


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", default=os.environ.get("RANKPRESS_TEST_POSTGRES_URL", ""))
    asked = parser.parse_args()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="rankpress-chaos-") as name,
        _database(asked.database) as url,
    ):
        folder = Path(name)
        expected, seconds = undisturbed(folder)
        print(f"undisturbed: {len(expected)} orders in {seconds:.1f} s", flush=True)
        faults, found, restarts = disturbed(
            folder,
            expected,
            jobs=asked.jobs,
            faults=asked.faults,
            workers=asked.workers,
            seed=asked.seed,
            database_url=url,
        )
    kind = "PostgreSQL" if url else "SQLite"
    print(
        f"{kind}, {asked.workers} workers, seed {asked.seed}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {time.monotonic() - started:.0f} s"
    )
    for name, number in sorted(faults.done.items()):
        print(f"{name:27} {number}")
    print(f"{'faults':27} {faults.done.total()}")
    print(f"{'processes started again':27} {restarts}")
    print("\n".join(found.lines()))
    for line in found.wrong:
        print(f"WRONG: {line}")
    print("all agrees" if not found.wrong else "DOES NOT AGREE")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
