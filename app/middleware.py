"""Around every request: its id, its log line, the headers of every answer, and the last net
under an unexpected exception."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.metrics import ApiMetrics
from app.problems import response_to
from rankpress.errors import InternalError, RankpressError
from rankpress.service.tracing import Tracing

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
logger = structlog.get_logger("rankpress.api")


class RequestContext:
    """Outermost of our own. HTTP alone; other scopes pass."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics, tracing: Tracing) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.metrics.running.track_inprogress():
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        scope["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        self.tracing.mark(request_id=request_id)
        status, received, sent, started = 499, 0, 0, time.perf_counter()

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, counted, send_with_headers)
        except ClientDisconnect:
            pass
        except RankpressError as error:
            # From a middleware, where the application's handlers do not reach.
            if status != 499:
                raise
            await response_to(error, request_id)(scope, receive, send_with_headers)
        except Exception as error:
            await logger.aerror("unhandled exception", exc_info=error)
            if status != 499:
                # The answer has begun: the server cuts it off, and it cannot pass as whole.
                raise
            problem = InternalError(
                "the service failed; the operator's log has the reason under the request id"
            )
            await response_to(problem, request_id)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.answered(
                scope, status=status, seconds=seconds, received=received, sent=sent
            )
            await logger.ainfo(
                "request",
                method=scope["method"],
                path=scope["path"][:300],
                status=status,
                bytes_received=received,
                bytes_sent=sent,
                seconds=round(seconds, 6),
            )


class HeadAsGet:
    """HEAD wherever there is GET (RFC 9110, 9.1). Endpoints that answer HEAD themselves, because
    a GET would cost more or means something else, are named by `own`."""

    def __init__(self, app: ASGIApp, own: re.Pattern[str]) -> None:
        self.app = app
        self.own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or self.own.match(scope["path"]):
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        inner = {**scope, "method": "GET"}
        try:
            await self.app(inner, receive, send_head)
        finally:
            scope.setdefault("route", inner.get("route"))  # for the metrics outside


def _request_id(scope: Scope) -> str:
    """The caller's, when it is harmless in a log; a new one otherwise."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return str(text)
    return uuid.uuid4().hex
