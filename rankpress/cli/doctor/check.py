"""What one look found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Found(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, or is not needed yet, but worth knowing
    WRONG = "wrong"  # the exit code is 1
    SKIPPED = "skipped"  # cannot be looked at here, and why


@dataclass(frozen=True)
class Check:
    """`detail` says what was found; `advice` what to do, when it is not all right."""

    name: str
    found: Found
    detail: str
    advice: str = ""


def ok(name: str, detail: str) -> Check:
    return Check(name, Found.OK, detail)


def wrong(name: str, detail: str, advice: str) -> Check:
    return Check(name, Found.WRONG, detail, advice)


def warning(name: str, detail: str, advice: str) -> Check:
    return Check(name, Found.WARNING, detail, advice)


def skipped(name: str, detail: str, advice: str = "") -> Check:
    return Check(name, Found.SKIPPED, detail, advice)
