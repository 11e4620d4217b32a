"""Limits on request bodies, before any endpoint sees a byte.

A route that takes no large body gets its body read here, up to the limit, and handed on whole:
counted on the bytes received, whatever Content-Length says, and also when the endpoint itself
would never look. A route that streams gets the body as it comes, each piece within the time
limit; it counts for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import response_to
from rankpress.errors import BadRequest, PayloadTooLarge, RankpressError, RequestTimeout

LINGER_BYTES = 64 * 1024**2
LINGER_SECONDS = 5.0


class BodyGuard:
    """`streams(scope)` says whether the route takes its body as a stream."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        stalled_seconds: float,
        streams: Callable[[Scope], bool],
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.stalled_seconds = stalled_seconds
        self.streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, self.stalled_seconds, scope)
        lingering = _lingering(body, send)
        if self.streams(scope):
            await self.app(scope, body.receive, lingering)
            return
        try:
            whole = await self._read(scope, body)
        except RankpressError as error:
            await response_to(error, scope.get("request_id"))(scope, receive, lingering)
            return
        await self.app(scope, _replay(whole, receive), lingering)

    async def _read(self, scope: Scope, body: _Body) -> bytes:
        length = dict(scope["headers"]).get(b"content-length")
        if length is not None:
            if not length.isdigit():
                raise BadRequest("Content-Length: a number of bytes is expected")
            if int(length[:20]) > self.max_bytes:
                raise self._too_large()
        chunks, size = [], 0
        while not body.complete:
            message = await body.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self.max_bytes:
                raise self._too_large()
            chunks.append(chunk)
        return b"".join(chunks)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body of this request may have {self.max_bytes} bytes at most; "
            "files go to POST /v1/uploads"
        )


class _Body:
    """The receive side of one request: whether it is complete, and how long it may be silent."""

    def __init__(self, receive: Receive, stalled_seconds: float, scope: Scope) -> None:
        headers = dict(scope["headers"])
        self._receive = receive
        self._stalled_seconds = stalled_seconds
        # RFC 9112, 6.3: what says that there is a body
        length = headers.get(b"content-length", b"0")
        self.complete = b"transfer-encoding" not in headers and length == b"0"
        # With `Expect: 100-continue` nothing is under way before the first read.
        self._held_back = headers.get(b"expect", b"").lower() == b"100-continue"

    async def receive(self) -> Message:
        if self.complete:
            return await self._receive()  # waits for the disconnect, for as long as it takes
        self._held_back = False
        try:
            async with asyncio.timeout(self._stalled_seconds):  # wait_for would make a task of each
                message = await self._receive()
        except TimeoutError as error:
            raise RequestTimeout(
                f"the body sent nothing for {self._stalled_seconds:g} s; nothing of it was kept"
            ) from error
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Reads on for a while without keeping anything: a connection that is closed while the
        peer still sends is reset, and the reset can overtake the answer."""
        left = LINGER_BYTES
        if self._held_back:
            return
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.complete and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except (TimeoutError, RequestTimeout):
            pass


def _lingering(body: _Body, send: Send) -> Send:
    """An answer given before the body was read ends the connection: the rest of the body must
    not be taken for the next request."""
    early = False

    async def send_closing(message: Message) -> None:
        nonlocal early
        if message["type"] == "http.response.start" and not body.complete:
            early = True
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        if early and message["type"] == "http.response.body" and not message.get("more_body"):
            await send({**message, "more_body": True})
            await body.drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return send_closing


def _replay(whole: bytes, receive: Receive) -> Receive:
    handed = False

    async def replayed() -> Message:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": whole, "more_body": False}

    return replayed
