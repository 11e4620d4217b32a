"""What must agree at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rankpress import Client
from rankpress.names import State
from rankpress.service.engine import Engine
from rankpress.service.settings import Settings
from rankpress.service.store import Store
from tests.chaos.callers import PATIENT, Result

ARTIFACTS = ("report.json", "spectrum.json", "weights")


@dataclass(frozen=True)
class Counts:
    jobs: int
    succeeded: int
    results: int
    bytes_downloaded: int
    bytes_stored: int
    steps_twice: int
    wrong: tuple[str, ...]  # each in words; nothing when all agrees

    def lines(self) -> list[str]:
        return [
            f"jobs in the database        {self.jobs}",
            f"  succeeded                 {self.succeeded}",
            f"results downloaded          {self.results}",
            f"bytes downloaded            {self.bytes_downloaded}",
            f"bytes stored as weights     {self.bytes_stored}",
            f"steps recorded twice        {self.steps_twice}",
        ]


def count(
    url: str,
    settings: Settings,
    *,
    jobs: int,
    results: list[Result],
    failures: list[str],
    expected: dict[int, str],
) -> Counts:
    """`expected` is the SHA-256 of each order when nothing disturbs it."""
    wrong = list(failures)
    with Client(url, retry=PATIENT) as client:  # the last fault may have killed the API
        listed = list(client.jobs())
    succeeded = [job for job in listed if job.state is State.SUCCEEDED]
    wrong += [f"{job.id} is {job.state}" for job in listed if job.state is not State.SUCCEEDED]
    if len(listed) != jobs:
        wrong.append(f"{jobs} jobs were submitted and {len(listed)} are there")
    if len({r.job_id for r in results}) != len(results):
        wrong.append("two callers got the same job")
    wrong += [f"{r.job_id} differs" for r in results if r.sha256 != expected[r.order]]
    stored = {info.key: info.size for info in Store(settings.store_url).list("jobs")}
    wanted = {f"jobs/default/{job.id}/{name}" for job in listed for name in ARTIFACTS}
    wrong += [f"missing: {key}" for key in sorted(wanted - set(stored))]
    wrong += [f"left over: {key}" for key in sorted(set(stored) - wanted)]
    weights = sum(size for key, size in stored.items() if key.endswith("/weights"))
    downloaded = sum(r.size_bytes for r in results)
    if weights != downloaded:
        wrong.append(f"{weights} bytes are stored and {downloaded} were downloaded")
    twice = _steps_twice(settings, [job.id for job in listed])
    if twice:
        wrong.append(f"{twice} steps are recorded twice")
    return Counts(
        len(listed), len(succeeded), len(results), downloaded, weights, twice, tuple(wrong)
    )


def _steps_twice(settings: Settings, job_ids: list[str]) -> int:
    """Steps that a job has once, recorded more than once."""
    engine = Engine(settings)
    try:
        names = [Counter(engine.steps("default", job_id)) for job_id in job_ids]
    finally:
        engine.close()
    return sum(max(0, found[name] - 1) for found in names for name in ("read", "report"))
