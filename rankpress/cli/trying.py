"""What the service would do with a file, without leaving anything there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from rankpress.client import Client, Watchers
from rankpress.client.compressing import model_files
from rankpress.errors import Conflict, NotFound
from rankpress.names import Rule
from rankpress.schemas.report import RankReport


def reports(
    client: Client, model: Path, thresholds: Sequence[float], rule: Rule, *, watch: Watchers
) -> tuple[RankReport, ...]:
    """A report for each threshold. The uploads and the job are deleted, however it ends."""
    with ExitStack() as clean:
        uploads = []
        for file in model_files(model):
            sent = client.upload(file, progress=watch.upload)
            clean.callback(_delete_upload, client, sent.id)
            uploads.append(sent.id)
        job = client.submit(
            model=uploads[0] if len(uploads) == 1 else tuple(uploads),
            threshold=tuple(thresholds),
            rule=rule,
        )
        clean.callback(_delete_job, client, job.id)
        client.wait(job.id, on_progress=watch.job)
        return tuple(client.report(job.id, result=i) for i in range(len(thresholds)))


def _delete_upload(client: Client, upload_id: str) -> None:
    with suppress(NotFound):
        client.delete_upload(upload_id)


def _delete_job(client: Client, job_id: str) -> None:
    with suppress(Conflict):  # ended already
        client.cancel(job_id)
    with suppress(NotFound):
        client.delete(job_id)
