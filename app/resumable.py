"""Resumable uploads: bytes appended at an offset, each request cut short keeping what came.

After draft-ietf-httpbis-resumable-upload. The interim answer 104 is not sent (the server below
has no way to), so a caller who wants to resume creates the upload first, with an empty body or
the first bytes and `Upload-Complete: ?0`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from app.context import Services, Transfer
from app.quota import room
from app.receive import check_digest, commit
from app.streaming import ObjectSink, Received
from rankpress.errors import (
    BadRequest,
    Conflict,
    DigestMismatch,
    PayloadTooLarge,
    RankpressError,
    RequestTimeout,
    UploadOffsetMismatch,
)
from rankpress.schemas.upload import Upload
from rankpress.service import keys, partials, uploads
from rankpress.service.partials import PartialUpload

# A crash of the service loses at most the segment that was being written.
SEGMENT_BYTES = 64 * 1024**2


class _Stopped(Exception):
    """A newer request took the upload over."""


@contextlib.asynccontextmanager
async def alone(services: Services, tenant: str, upload_id: str) -> AsyncIterator[Transfer]:
    """Stops whoever is appending, waits until what they received is stored, and takes over."""
    place, mine = (tenant, upload_id), Transfer()
    while (other := services.transfers.get(place)) is not None:
        other.stop.set()
        await other.ended.wait()
    services.transfers[place] = mine
    try:
        yield mine
    finally:
        del services.transfers[place]
        mine.ended.set()


@dataclass(frozen=True, kw_only=True)
class Append:
    """One request's share of the upload."""

    offset: int
    complete: bool
    content_sha256: bytes | None = None  # of this request's bytes
    repr_sha256: bytes | None = None  # of the whole file


async def append(
    services: Services,
    tenant: str,
    partial: PartialUpload,
    request: Append,
    chunks: AsyncIterator[bytes],
    transfer: Transfer,
) -> int | Upload:
    """The new offset, or the upload when the request completed it.

    Raises `UploadOffsetMismatch`, `PayloadTooLarge`, `DigestMismatch`, and the subclasses of
    `InvalidFile`; a request cut short or stopped leaves what was received.
    """
    at = await asyncio.to_thread(partials.offset, services.store, tenant, partial.id)
    if request.offset != at:
        raise UploadOffsetMismatch(
            f"{at} bytes are stored, so the next one has the offset {at}, not {request.offset}",
            headers={"Upload-Offset": str(at), "Upload-Complete": "?0"},
        )
    space = await room(services, tenant)
    limit = partial.size_bytes or services.settings.max_upload_bytes
    limit = min(limit, at + space.limit_bytes)
    digest = None if request.content_sha256 is None else hashlib.sha256()
    writer = _Segments(services, tenant, partial, at, limit, digest)
    try:
        async for chunk in _until_stopped(chunks, transfer):
            await writer.write(chunk)
        await writer.close()
    except PayloadTooLarge:
        await writer.abort()
        await asyncio.to_thread(uploads.delete, services.store, tenant, partial.id)
        raise
    except (ClientDisconnect, asyncio.CancelledError):
        await writer.close()
        raise
    except RequestTimeout as error:
        await writer.close()
        raise RequestTimeout(
            "the body sent nothing for too long; what came before is kept: go on at Upload-Offset",
            headers={"Upload-Offset": str(writer.end)},
        ) from error
    except _Stopped as error:
        await writer.close()
        # Maybe an older request of the same caller, late on its way: what came before is kept.
        raise Conflict(
            "another request has taken this upload over; if it is not yours, ask for the offset "
            "and go on",
            headers={"Upload-Offset": str(writer.end), "Upload-Complete": "?0"},
        ) from error
    except BaseException:
        await writer.abort()
        raise
    await _check_content(services, request, writer)
    if request.complete:
        return await complete(services, tenant, partial, request.repr_sha256)
    return writer.end


async def complete(
    services: Services, tenant: str, partial: PartialUpload, repr_sha256: bytes | None
) -> Upload:
    """The parts become the file. A file that is refused goes with its parts; a store that fails
    leaves them, so that the caller may try to complete again."""
    store = services.store
    row = await asyncio.to_thread(partials.parts, store, tenant, partial.id)
    end = row[-1].end if row else 0
    if partial.size_bytes not in (None, end):
        raise BadRequest(
            f"Upload-Length said {partial.size_bytes} bytes; {end} were sent, "
            "so the upload is not complete",
            headers={"Upload-Offset": str(end), "Upload-Complete": "?0"},
        )
    sink = ObjectSink(store, keys.upload_data(tenant, partial.id), limit=end)
    try:
        for part in row:
            async for piece in store.stream(part.key, 0, part.size):
                await sink.write(piece)
        received = await sink.finish()
    except BaseException:
        await sink.abort()
        raise
    try:
        announced = None if partial.sha256 is None else bytes.fromhex(partial.sha256)
        check_digest(received, repr_sha256 or announced)
        upload = await commit(services, tenant, partial.id, partial.filename, received)
    except RankpressError as error:
        if error.status < 500:
            await asyncio.to_thread(uploads.delete, store, tenant, partial.id)
        raise
    await asyncio.to_thread(partials.forget, store, tenant, partial.id)
    return upload


class _Segments:
    """The request's bytes as parts of bounded size."""

    def __init__(
        self,
        services: Services,
        tenant: str,
        partial: PartialUpload,
        at: int,
        limit: int,
        digest: hashlib._Hash | None,
    ) -> None:
        self.end = at
        self.digest = digest  # of these bytes, where the caller announced one
        self.keys: list[str] = []
        self._services = services
        self._tenant = tenant
        self._partial = partial
        self._limit = limit
        self._sink: ObjectSink | None = None

    async def write(self, chunk: bytes) -> None:
        if self.end + len(chunk) > self._limit:
            raise PayloadTooLarge(
                f"the file may have {self._limit} bytes at most; nothing of it was kept"
            )
        while chunk:
            if self._sink is None:
                key = keys.upload_part(self._tenant, self._partial.id, self.end)
                self.keys.append(key)
                self._sink = ObjectSink(self._services.store, key, limit=self._limit)
            room = SEGMENT_BYTES - self._sink.size_bytes
            piece, chunk = chunk[:room], chunk[room:]
            await self._sink.write(piece)
            if self.digest is not None:
                self.digest.update(piece)
            self.end += len(piece)
            if self._sink.size_bytes >= SEGMENT_BYTES:
                await self.close()

    async def close(self) -> Received | None:
        """What was received so far becomes a part."""
        sink, self._sink = self._sink, None
        return None if sink is None else await sink.finish()

    async def abort(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.abort()


async def _check_content(services: Services, request: Append, writer: _Segments) -> None:
    """A part that was damaged on its way is taken back, so that it can be sent again."""
    if writer.digest is not None and (found := writer.digest.digest()) != request.content_sha256:
        await asyncio.to_thread(services.store.delete, *writer.keys)
        raise DigestMismatch(
            f"this request's bytes have the SHA-256 {found.hex()}, not the one announced in "
            "Content-Digest; send them again",
            headers={"Upload-Offset": str(request.offset)},
        )


async def _until_stopped(chunks: AsyncIterator[bytes], transfer: Transfer) -> AsyncIterator[bytes]:
    stopping = asyncio.ensure_future(transfer.stop.wait())
    source = aiter(chunks)
    try:
        while True:
            coming = asyncio.ensure_future(anext(source, None))
            await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                # It may end by the caller's disconnection instead: taken here, or asyncio logs it.
                await asyncio.gather(coming, return_exceptions=True)
                raise _Stopped
            chunk = coming.result()
            if chunk is None:
                return
            yield chunk
    finally:
        stopping.cancel()
