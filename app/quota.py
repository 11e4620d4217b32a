"""How much one caller may still store."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from app.context import Services
from rankpress.errors import PayloadTooLarge
from rankpress.service.store import Store


class Room(NamedTuple):
    """For the next file."""

    limit_bytes: int
    what: str  # the subject of the sentence that says how much it may have


async def room(services: Services, tenant: str, what: str = "the file") -> Room:
    """Raises `PayloadTooLarge` when nothing is left."""
    settings = services.settings
    if not settings.max_stored_bytes:
        return Room(settings.max_upload_bytes, what)
    used = await asyncio.to_thread(stored_bytes, services.store, tenant)
    left = settings.max_stored_bytes - used
    if left <= 0:
        raise PayloadTooLarge(
            f"{used} bytes are stored, and one caller may store {settings.max_stored_bytes}; "
            "delete jobs or uploads that are no longer needed"
        )
    if left < settings.max_upload_bytes:
        return Room(left, f"{what}, beside the {used} bytes stored already,")
    return Room(settings.max_upload_bytes, what)


def stored_bytes(store: Store, tenant: str) -> int:
    """Uploads, complete or not, and results."""
    return sum(info.size for kind in ("uploads", "jobs") for info in store.list(f"{kind}/{tenant}"))
