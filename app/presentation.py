"""A job as its caller may see it."""

from __future__ import annotations

from rankpress.schemas.job import Job
from rankpress.service.engine import Engine
from rankpress.service.records import Record
from rankpress.service.redaction import redacted


def job_of(engine: Engine, record: Record) -> Job:
    return redacted(engine.job(record))
