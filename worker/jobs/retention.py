"""What is old goes: ended jobs with their results, uploads that no open job needs, leftovers.

A record goes first, and what it pointed at goes a while later, so that a download which is under
way when its job expires is not cut. One worker at a time does this, whichever is first; scratch
folders and decompositions are on each worker's own disk, so each looks after its own.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from dbos import DBOS

from rankpress.schemas.upload import Upload
from rankpress.service import keys, partials
from rankpress.service.lease import Leases
from rankpress.service.localfiles import below
from rankpress.service.settings import Settings
from rankpress.service.spec import WORKFLOW, JobSpec, workflow_id
from rankpress.service.store import Missing, Store
from worker.jobs.jobfiles import upload_ids
from worker.jobs.sightings import Sightings
from worker.linalg.kept_folder import prune

log = structlog.get_logger(__name__)
INTERVAL_SECONDS = 600.0
GRACE_SECONDS = 3600.0  # between a record's end and its bytes'; also for what has no record yet
STILL_SECONDS = 300.0  # that a temporary file must have been seen unchanged, whatever its age
TASK = "retention"
IDS_AT_ONCE = 1000


class Retention:
    """Sweeps at start and every ten minutes. Days are those of the calendar; what must not be cut
    short by a clock that is set is counted by `clock`, which nobody sets."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        leases: Leases,
        scratch_leases: Leases,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._leases = leases
        self._scratch_leases = scratch_leases
        self._orphans = Sightings(clock)  # folders without a record
        self._cut_puts = Sightings(clock)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="retention", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _loop(self) -> None:
        while True:
            try:
                self.delete_scratch()
                prune(
                    self._settings.decomposition_cache_dir, self._settings.decomposition_cache_bytes
                )
                with self._leases.task(TASK) as free:
                    if free:
                        self.sweep()
            except Exception:
                log.exception("retention_failed")
            if self._stop.wait(INTERVAL_SECONDS):
                return

    def sweep(self, now: datetime | None = None) -> None:
        """One round, as if it were `now` (UTC)."""
        now = now or datetime.now(UTC)
        if self._settings.retention_days:
            before = now - timedelta(days=self._settings.retention_days)
            self._expire_jobs(before)
            self._expire_uploads(before)
        self._delete_orphans()
        self._delete_parts(now)
        self._delete_cut_puts(now.timestamp())
        self._compact()

    def _expire_jobs(self, before: datetime) -> None:
        ended = DBOS.list_workflows(
            name=WORKFLOW,  # its groups, which ended before it, go with it
            completed_before=before.isoformat(),
            status=["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"],
            load_input=False,
            load_output=False,
        )
        if ended:
            DBOS.delete_workflows([w.workflow_id for w in ended], delete_children=True)
            log.info("jobs_expired", count=len(ended))

    def _expire_uploads(self, before: datetime) -> None:
        needed = {
            keys.upload_prefix(spec.tenant, upload_id)
            for spec in self._open_jobs()
            for upload_id in upload_ids(spec.request)
        }
        for folder in _folders(self._store, "uploads"):
            if folder in needed:
                continue
            _, tenant, upload_id = folder.split("/")
            try:
                record = self._store.get_model(keys.upload_record(tenant, upload_id), Upload)
            except Missing:
                continue
            if record.created_at < before:
                self._store.delete(keys.upload_record(tenant, upload_id))
                log.info("upload_expired", upload_id=upload_id)

    def _delete_orphans(self) -> None:
        """Folders without a record: their job or upload is gone, or was cut short."""
        orphans = {
            folder
            for folder in _folders(self._store, "uploads")
            if not self._store.exists(f"{folder}/upload.json")
        } - self._partial_uploads()
        jobs = {folder: folder.split("/")[1:] for folder in _folders(self._store, "jobs")}
        known = _known([workflow_id(tenant, job) for tenant, job in jobs.values()])
        orphans |= {f for f, (tenant, job) in jobs.items() if workflow_id(tenant, job) not in known}
        for folder in self._orphans.of(orphans, GRACE_SECONDS):
            self._store.delete_prefix(folder)
            log.info("orphan_deleted", kind=folder.split("/")[0])

    def _delete_parts(self, now: datetime) -> None:
        """What a worker was still writing when its job had ended already."""
        old = now - timedelta(seconds=GRACE_SECONDS)
        parts = [i for i in self._store.list("jobs") if "/parts/" in i.key and i.modified < old]
        if parts:
            open_jobs = {keys.job_prefix(s.tenant, s.job_id) for s in self._open_jobs()}
            for info in parts:
                if "/".join(info.key.split("/")[:3]) not in open_jobs:
                    self._store.delete(info.key)

    def _partial_uploads(self) -> set[str]:
        """Folders of the resumable uploads that may still be gone on with."""
        age = timedelta(hours=self._settings.partial_upload_hours)
        folders = set()
        for tenant in {info.key.split("/")[1] for info in self._store.list("partials")}:
            folders |= {
                keys.upload_prefix(tenant, upload_id)
                for upload_id in partials.sweep(self._store, tenant, age)
            }
        return folders

    def delete_scratch(self) -> None:
        """Folders of jobs that have ended, and those of workers of this disk that are gone."""
        # Listed before the jobs: a folder made since is not looked at.
        ours = list(self._settings.worker_scratch_dir.glob("*/*"))
        open_jobs = {keys.job_prefix(s.tenant, s.job_id) for s in self._open_jobs()}
        for path in ours:
            if f"jobs/{path.parent.name}/{path.name}" not in open_jobs:
                shutil.rmtree(path, ignore_errors=True)
        for folder in self._settings.scratch_dir.glob("*/"):
            if folder.name != self._settings.worker_name:
                with self._scratch_leases.if_free(folder.name) as gone:
                    if gone:
                        shutil.rmtree(folder, ignore_errors=True)
                        folder.with_name(f"{folder.name}.alive").unlink(missing_ok=True)

    def _delete_cut_puts(self, now: float) -> None:
        """Temporary files that a killed process left in a local store: `name#1` beside `name`.
        One that is being written looks old when the clock has been set, but it grows."""
        root = self._store.local_path("")
        if root is None:
            return
        found = {(path, *_state(path)) for path in below(root) if "#" in path.name}
        for path, modified, _ in self._cut_puts.of(found, STILL_SECONDS):
            if now - modified > GRACE_SECONDS:
                path.unlink(missing_ok=True)

    def _open_jobs(self) -> Iterator[JobSpec]:
        for status in DBOS.list_workflows(
            name=WORKFLOW, status=["ENQUEUED", "DELAYED", "PENDING"], load_output=False
        ):
            if status.input is not None:
                yield JobSpec.model_validate(status.input["args"][0])

    def _compact(self) -> None:
        """Gives an SQLite file's free pages back to the disk; a busy database is left alone."""
        if (path := self._settings.sqlite_path) is None:
            return
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            try:
                (free,) = connection.execute("PRAGMA freelist_count").fetchone()
                if free > 1000:
                    connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.OperationalError:
                log.info("compaction_put_off")


def _folders(store: Store, kind: str) -> set[str]:
    """`kind/tenant/id` of everything below a kind."""
    return {"/".join(info.key.split("/")[:3]) for info in store.list(kind)}


def _known(ids: list[str]) -> set[str]:
    """Those of which the database has a workflow; asked for in pieces, as a query has limits."""
    return {
        w.workflow_id
        for at in range(0, len(ids), IDS_AT_ONCE)
        for w in DBOS.list_workflows(
            workflow_ids=ids[at : at + IDS_AT_ONCE], load_input=False, load_output=False
        )
    }


def _state(path: Path) -> tuple[float, int]:
    """When it was last written, and its size; of one that has just gone, nothing that lasts."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return time.time(), 0
    return found.st_mtime, found.st_size
