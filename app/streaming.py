"""Bytes on their way into the store: counted, hashed and bounded while they pass."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import NamedTuple

from rankpress.errors import PayloadTooLarge
from rankpress.service.store import Store

PIECE = 1024**2


class Received(NamedTuple):
    size_bytes: int
    sha256: str  # lower-case hex


class _Abandoned(Exception):
    """Makes the store give up a put."""


class ObjectSink:
    """One object being written. `finish` makes it exist; after `abort`, or without `finish`,
    nothing of it stays.

    The put runs as a task of its own and is fed through a short queue, so that it ends in its
    own time when the request is cancelled: the store's client must not be cancelled midway.
    Memory: the queue and the store's own buffers, a few pieces of 1 and 8 MiB.
    """

    def __init__(self, store: Store, key: str, *, limit: int, what: str = "the file") -> None:
        self._limit = limit
        self._what = what
        self._digest = hashlib.sha256()
        self._size = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._queue: asyncio.Queue[bytes | _Abandoned | None] = asyncio.Queue(2)
        self._put = asyncio.create_task(store.put_stream(key, self._pieces()))

    @property
    def size_bytes(self) -> int:
        return self._size

    async def write(self, data: bytes) -> None:
        """Raises `PayloadTooLarge`, and what the put failed with."""
        self._size += len(data)
        if self._size > self._limit:
            raise PayloadTooLarge(
                f"{self._what} may have {self._limit} bytes at most; nothing of it was kept"
            )
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= PIECE:
            await self._pass_on()

    async def finish(self) -> Received:
        await self._pass_on()
        await self._send(None)
        await asyncio.shield(self._put)
        return Received(self._size, self._digest.hexdigest())

    async def abort(self) -> None:
        """Waits until nothing is left."""
        if self._put.done():
            if not self._put.cancelled():
                self._put.exception()
            return
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(_Abandoned())
        with contextlib.suppress(Exception):
            await asyncio.shield(self._put)

    async def _pass_on(self) -> None:
        if self._held_bytes:
            piece = b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            await self._send(piece)

    async def _send(self, item: bytes | None) -> None:
        """Into the queue, unless the put has ended before its time."""
        putting = asyncio.ensure_future(self._queue.put(item))
        try:
            await asyncio.wait({putting, self._put}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not putting.done():
                putting.cancel()
        if self._put.done():
            self._put.result()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while (item := await self._queue.get()) is not None:
            if isinstance(item, _Abandoned):
                raise item
            # By a thread, while another writes it and the next piece comes in.
            hashing = asyncio.ensure_future(asyncio.to_thread(self._digest.update, item))
            try:
                yield item
            finally:
                await hashing
