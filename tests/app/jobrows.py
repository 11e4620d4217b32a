"""Plays the worker: writes into the queue's tables what a worker's run would have left."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import Any

from rankpress.service import keys
from rankpress.service.settings import Settings
from rankpress.service.store import Store
from tests.app.appkit import sha256


def set_state(settings: Settings, job_id: str, status: str, output: Any = None) -> None:
    """`status` in DBOS's words."""
    now, row = int(time.time() * 1000), f"default:{job_id}"
    assert settings.sqlite_path is not None
    with closing(sqlite3.connect(settings.sqlite_path)) as db, db:
        db.execute(
            "UPDATE workflow_status SET status=?, started_at_epoch_ms=?, completed_at=? "
            "WHERE workflow_uuid=?",
            (status, now, None if status == "PENDING" else now, row),
        )
        if output is not None:
            db.execute(
                "INSERT INTO workflow_output (workflow_uuid, output) VALUES (?, ?)",
                (row, json.dumps(output)),
            )


def set_progress(settings: Settings, job_id: str, stage: str, done: int, total: int) -> None:
    value = {"stage": stage, "done": done, "total": total, "started_at": time.time()}
    assert settings.sqlite_path is not None
    with closing(sqlite3.connect(settings.sqlite_path)) as db, db:
        db.execute(
            "INSERT OR REPLACE INTO workflow_events (workflow_uuid, key, value, serialization) "
            "VALUES (?, 'progress', ?, 'portable_json')",
            (f"default:{job_id}", json.dumps(value)),
        )


def succeed(
    settings: Settings, job_id: str, data: bytes, report: bytes = b"{}", name: str = "m.safetensors"
) -> None:
    """The job's artifacts and its output, as the workflow returns it."""
    store = Store(settings.store_url)
    store.put_bytes(keys.job_weights("default", job_id), data)
    store.put_bytes(keys.job_report("default", job_id), report)
    weights = {
        "sha256": sha256(data),
        "size_bytes": len(data),
        "format": "safetensors",
        "filename": name,
    }
    set_state(settings, job_id, "SUCCESS", {"weights": weights})


def record_step(settings: Settings, job_id: str, number: int, name: str, output: Any) -> None:
    """As the worker's DBOS records the result of a step."""
    assert settings.sqlite_path is not None
    with closing(sqlite3.connect(settings.sqlite_path)) as db, db:
        db.execute(
            "INSERT INTO operation_outputs "
            "(workflow_uuid, function_id, function_name, output, serialization) "
            "VALUES (?, ?, ?, ?, 'portable_json')",
            (f"default:{job_id}", number, name, json.dumps(output)),
        )
