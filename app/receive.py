"""A file becoming an upload: streamed, checked, and only then there."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime

from app.context import Services
from app.quota import Room
from app.streaming import ObjectSink, Received
from rankpress.errors import DigestMismatch
from rankpress.formats import FileFacts, inspect_file
from rankpress.schemas.upload import Upload
from rankpress.service import keys, uploads


class NewUpload:
    """`write` the bytes, then `commit`; on any error `discard`, and nothing was there."""

    def __init__(
        self, services: Services, tenant: str, filename: str | None, *, room: Room
    ) -> None:
        self.id = uuid.uuid4().hex
        self._services = services
        self._tenant = tenant
        self._filename = filename
        self._sink = ObjectSink(
            services.store,
            keys.upload_data(tenant, self.id),
            limit=room.limit_bytes,
            what=room.what,
        )

    async def write(self, data: bytes) -> None:
        await self._sink.write(data)

    async def commit(self, expected_sha256: bytes | None = None) -> Upload:
        """Raises `DigestMismatch` and the subclasses of `InvalidFile`."""
        received = await self._sink.finish()
        check_digest(received, expected_sha256)
        return await commit(self._services, self._tenant, self.id, self._filename, received)

    async def discard(self) -> None:
        await self._sink.abort()
        store = self._services.store
        await asyncio.to_thread(uploads.delete, store, self._tenant, self.id)


def check_digest(received: Received, expected_sha256: bytes | None) -> None:
    if expected_sha256 is not None and received.sha256 != expected_sha256.hex():
        raise DigestMismatch(
            f"the {received.size_bytes} bytes received have the SHA-256 {received.sha256}, "
            f"not the {expected_sha256.hex()} announced; send the file again"
        )


async def commit(
    services: Services, tenant: str, upload_id: str, filename: str | None, received: Received
) -> Upload:
    """Looks at the stored bytes' headers and writes the record."""
    facts = await asyncio.to_thread(_inspect, services, tenant, upload_id, received.size_bytes)
    upload = Upload(
        id=upload_id,
        filename=filename,
        size_bytes=received.size_bytes,
        sha256=received.sha256,
        format=facts.format,
        tensors=facts.tensors,
        created_at=datetime.now(UTC),
    )
    await asyncio.to_thread(uploads.commit, services.store, tenant, upload)
    return upload


def _inspect(services: Services, tenant: str, upload_id: str, size_bytes: int) -> FileFacts:
    limits = services.settings.file_limits
    with services.store.open(keys.upload_data(tenant, upload_id)) as file:
        return inspect_file(file, size_bytes, limits=limits)
