"""Resumable uploads on their way: their record, and the parts received so far.

A part is one object named by the offset of its first byte, and is written whole or not at all;
the offset of the upload is where the unbroken row of parts ends. Nothing else is remembered, so
that nothing can disagree with what is stored.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from rankpress.errors import NotFound
from rankpress.schemas.base import Frozen
from rankpress.service import keys, uploads
from rankpress.service.store import Missing, Store


class PartialUpload(Frozen):
    id: str
    filename: str | None
    size_bytes: int | None  # of the whole file, once the caller has said it
    sha256: str | None  # lower-case hex, announced by the caller
    created_at: datetime


class Part(NamedTuple):
    key: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


def save(store: Store, tenant: str, partial: PartialUpload) -> None:
    store.put_model(keys.partial_record(tenant, partial.id), partial)


def load(store: Store, tenant: str, upload_id: str) -> PartialUpload:
    """Raises `NotFound`."""
    try:
        return store.get_model(keys.partial_record(tenant, upload_id), PartialUpload)
    except Missing as error:
        raise NotFound(f"no upload {upload_id!r}") from error


def parts(store: Store, tenant: str, upload_id: str) -> list[Part]:
    """The unbroken row from offset 0, in order. A part that a later one reaches into was left by
    a request that had been given up; the bytes are the same file's, so the row goes on."""
    found = sorted(
        Part(info.key, int(info.key.rpartition("/")[2]), info.size)
        for info in store.list(keys.upload_parts(tenant, upload_id))
    )
    by_offset = {part.offset: part for part in found}
    row: list[Part] = []
    end = 0
    while (part := by_offset.get(end)) is not None and part.size > 0:
        row.append(part)
        end = part.end
    return row


def offset(store: Store, tenant: str, upload_id: str) -> int:
    row = parts(store, tenant, upload_id)
    return row[-1].end if row else 0


def sweep(store: Store, tenant: str, max_age: timedelta) -> list[str]:
    """Ids of the uploads that are not complete. What nobody went on with for `max_age` is deleted
    on the way."""
    oldest = datetime.now(UTC) - max_age
    found = []
    for info in list(store.list(keys.partial_prefix(tenant))):
        upload_id = info.key.rpartition("/")[2].removesuffix(".json")
        if info.modified < oldest:
            uploads.delete(store, tenant, upload_id)
        else:
            found.append(upload_id)
    return found


def forget(store: Store, tenant: str, upload_id: str) -> None:
    """After completion: the record and the parts, which the whole file has replaced."""
    store.delete(keys.partial_record(tenant, upload_id))
    store.delete_prefix(keys.upload_parts(tenant, upload_id))
