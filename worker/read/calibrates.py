"""Known before any file is opened, and asked by the worker, which never imports torch."""

from __future__ import annotations

from rankpress.names import Aware
from rankpress.schemas.request import JobRequest


def calibrates(request: JobRequest) -> bool:
    """Whether statistics are made here."""
    return request.aware is not Aware.NONE and request.statistics is None
