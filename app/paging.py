"""Keyset pages of jobs, newest first: a cursor is a place in the order, not a number of rows, so
that jobs which come or go meanwhile neither repeat nor hide others."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import NamedTuple

from rankpress.errors import InvalidRequest
from rankpress.names import State
from rankpress.schemas.request import LABEL_KEY_CHARACTERS, LABEL_KEY_LENGTH
from rankpress.service.engine import Engine
from rankpress.service.records import Record

# Records looked through for one page when labels filter; the page may then be shorter than asked.
MAX_SCANNED = 5000
# A label's key, as a job may have it, and any value.
LABEL = f"^{LABEL_KEY_CHARACTERS}{{1,{LABEL_KEY_LENGTH}}}:"


class Cursor(NamedTuple):
    """The last job of the page before."""

    created_ms: int
    job_id: str

    def encode(self) -> str:
        text = f"{self.created_ms}:{self.job_id}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(text: str) -> Cursor:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        created, separator, job_id = raw.decode("ascii").partition(":")
        created_ms = int(created) if len(created) <= 15 and created.isdigit() else -1
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise _bad_cursor() from error
    if created_ms < 0 or not separator or not job_id or created_ms > 253402300799000:
        raise _bad_cursor()
    cursor = Cursor(created_ms, job_id)
    if cursor.encode() != text:
        raise _bad_cursor()
    return cursor


def _bad_cursor() -> InvalidRequest:
    return InvalidRequest.at("/query/cursor", "not a cursor; pass a page's next_cursor unchanged")


def parse_labels(values: Sequence[str]) -> dict[str, str]:
    """`key:value` each; a job must carry all of them."""
    found: dict[str, str] = {}
    for at, value in enumerate(values):
        if not re.match(LABEL, value):
            raise InvalidRequest.at(f"/query/label/{at}", "expected is key:value, e.g. run:42")
        key, _, text = value.partition(":")
        if found.setdefault(key, text) != text:
            raise InvalidRequest.at(f"/query/label/{at}", f"two values for {key[:60]!r}")
    return found


class Page(NamedTuple):
    records: list[Record]
    next_cursor: str | None


def page(
    engine: Engine,
    tenant: str,
    *,
    limit: int,
    cursor: Cursor | None,
    state: State | None,
    labels: dict[str, str],
) -> Page:
    """At most `limit` records after the cursor, and where to go on."""
    records: list[Record] = []
    last: Cursor | None = None
    before = None if cursor is None else cursor.created_ms
    scanned = 0
    for record in engine.newest_first(tenant, state=state, before_ms=before):
        here = Cursor(record.created_ms, record.spec.job_id)
        if cursor is not None and here >= cursor:
            continue
        if last is not None and (len(records) == limit or scanned == MAX_SCANNED):
            return Page(records, last.encode())
        scanned, last = scanned + 1, here
        if labels.items() <= record.spec.request.labels.items():
            records.append(record)
    return Page(records, None)
