"""`frontier`: several sizes of one model side by side, from one job and one decomposition."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankpress.client import compressing, jobs
from rankpress.client.compressing import Watchers
from rankpress.client.downloads import download
from rankpress.client.effects import Flow, blocking
from rankpress.client.retry import RetryPolicy
from rankpress.client.scoring import Scoring
from rankpress.names import Rule
from rankpress.reporting.points import point_of
from rankpress.schemas.job import Job
from rankpress.schemas.report import FrontierPoint, RankReport


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What `frontier` gives back. `paths[i]` is the file of `points[i]`, where a folder was
    given; without one, `Client.download(job.id, path, result=i)` fetches it later."""

    job: Job
    report: RankReport  # of the first result
    paths: tuple[Path, ...] = ()

    @property
    def points(self) -> tuple[FrontierPoint, ...]:
        """A point for each threshold or budget, in the order they were given."""
        return self.report.frontier or (point_of(self.report),)


def request_fields(
    thresholds: Sequence[float] | None,
    budgets: Sequence[float | Mapping[str, float]] | None,
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """`fields` with the list. A budget that is a number is a share of the parameters."""
    if (thresholds is None) == (budgets is None):
        raise TypeError("give thresholds or budgets, and not both")
    if thresholds is not None:
        return {**fields, "threshold": tuple(thresholds)}
    assert budgets is not None
    given = tuple({"parameters": b} if isinstance(b, int | float) else dict(b) for b in budgets)
    return {**fields, "rule": Rule.BUDGET, "budget": given}


def frontier(
    model: Any,
    *,
    fields: Mapping[str, Any],
    scoring: Scoring,
    folder: Path | None,
    timeout: float | None,
    watch: Watchers,
    policy: RetryPolicy,
) -> Flow[Frontier]:
    """`model` as for `compress`; a module or a state_dict is sent and left as it is. Raises as
    `compress` does."""
    scoring = yield from blocking(lambda: scoring.beside(model))
    compressing.check(model, fields, scoring)
    temporary = yield from blocking(lambda: tempfile.TemporaryDirectory(prefix="rankpress-"))
    try:
        made = Path(temporary.name)
        files = yield from blocking(lambda: compressing.files_of(model, made))
        job = yield from compressing.run(
            model, files, made, fields, scoring, timeout, watch, policy
        )
    finally:
        temporary.cleanup()
    path = Path(model) if isinstance(model, str | os.PathLike) else Path("model")
    report = yield from jobs.report(job.id, policy=policy)
    found = Frontier(job=job, report=report)
    if folder is None:
        return found
    yield from blocking(lambda: folder.mkdir(parents=True, exist_ok=True))
    paths = []
    for point in found.points:
        target = folder / _file_name(path, point, report)
        url, params = jobs.job_path(job.id, "weights"), jobs.result_params(point.index)
        done = yield from download(
            url, target, params=params, progress=watch.download, policy=policy
        )
        paths.append(done)
    return Frontier(job=job, report=report, paths=tuple(paths))


def _file_name(model: Path, point: FrontierPoint, report: RankReport) -> str:
    """`net-threshold-0.9.safetensors`, `net-parameters-0.4.pt`."""
    beside = compressing.default_output(model, report)
    if point.budget is not None:
        ((name, value),) = point.budget.model_dump(exclude_none=True).items()
    else:
        name, value = "threshold", point.threshold
    return f"{beside.stem.removesuffix('-compressed')}-{name}-{value:g}{beside.suffix}"
