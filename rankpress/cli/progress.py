"""Progress bars on stderr: uploads, the job's stages, the download."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from rankpress.client import Watchers
from rankpress.names import Stage
from rankpress.schemas.job import Job

UNITS = {Stage.READ: "Reading", Stage.FACTORISE: "Layers", Stage.WRITE: "Writing"}


class _Amount(ProgressColumn):
    """Bytes for transfers, counts for the job."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes, self._count = DownloadColumn(binary_units=True), MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        return (self._bytes if task.fields.get("bytes") else self._count).render(task)


class Bars:
    """Shown when stderr is a terminal; otherwise nothing is written. `job_id` is the job seen
    last, so that an interrupted command can name what goes on without it."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            _Amount(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._transfers: dict[str, tuple[TaskID, int | None, bool]] = {}
        self._stages: dict[Stage, TaskID] = {}
        self.job_id: str | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def watchers(self) -> Watchers:
        return Watchers(
            upload=lambda done, total: self._transfer("Upload", done, total),
            job=self.job,
            download=lambda done, total: self._transfer("Download", done, total),
        )

    def download(self, done: int, total: int | None) -> None:
        self._transfer("Download", done, total)

    def _transfer(self, what: str, done: int, total: int | None) -> None:
        """One bar a file; an attempt that starts over moves the same bar back."""
        task, size, finished = self._transfers.get(what, (None, None, True))
        if task is None or finished or size != total:
            task = self._progress.add_task(what, total=total, bytes=True)
        self._progress.update(task, completed=done)
        self._transfers[what] = (task, total, total is not None and done >= total)

    def job(self, job: Job) -> None:
        self.job_id = job.id
        if job.stage is None:
            return
        for stage, task in self._stages.items():
            if stage is not job.stage:
                shown = next(t for t in self._progress.tasks if t.id == task)
                self._progress.update(task, completed=shown.total or 0)
        if job.stage not in self._stages:
            label = UNITS.get(job.stage, "Evaluation")
            self._stages[job.stage] = self._progress.add_task(label, total=None)
        done, total = job.progress.done, job.progress.total or None
        self._progress.update(self._stages[job.stage], completed=done, total=total)
