"""Every error of the service as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from app.pointers import items_of
from rankpress.errors import (
    BadRequest,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    PayloadTooLarge,
    RankpressError,
    RequestTimeout,
    TooManyRequests,
    Unavailable,
    UnsupportedMediaType,
)

MEDIA_TYPE = "application/problem+json"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# What the framework itself answers, by status: ours carry the same slug wherever they arise.
FRAMEWORK: dict[int, type[RankpressError]] = {
    400: BadRequest,
    404: NotFound,
    405: MethodNotAllowed,
    406: NotAcceptable,
    408: RequestTimeout,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    422: InvalidRequest,
    429: TooManyRequests,
    503: Unavailable,
}
DESCRIPTIONS = {
    400: "A header or the body's framing is malformed",
    401: "No key, or not a valid one",
    403: "The key's role does not allow this",
    404: "No such resource for this caller",
    406: "None of the accepted media types is offered",
    408: "The body stalled",
    409: "The resource's state does not allow this",
    412: "A precondition (If-Match) does not hold",
    413: "Over a limit, counted on the bytes received; the limit is in the detail",
    415: "Another media type is expected",
    416: "The range lies beyond the end",
    422: "A field, a digest or a file is wrong; `errors` points at fields",
    429: "Over a limit of this caller; `Retry-After` says when to come back",
    500: "A fault of the service; the operator's log has it under the request id",
    503: "The database or the store cannot be reached",
    507: "The store has no space left; nothing of the request was kept",
}
logger = structlog.get_logger("rankpress.api")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint: these problems, and those that any endpoint can answer."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": DESCRIPTIONS[status], "content": {MEDIA_TYPE: schema}}
        for status in sorted({*statuses, 401, 403, 413, 422, 429, 500, 503})
    }


def response_to(error: RankpressError, request_id: str | None = None) -> Response:
    instance = None if request_id is None else f"urn:rankpress:request:{request_id}"
    return Response(
        error.to_problem(instance).model_dump_json(),
        status_code=error.status,
        headers=error.headers,
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    app.add_exception_handler(RankpressError, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _framework)


def allowed_methods(app: FastAPI, scope: Scope) -> list[str]:
    """What the path takes, over all its endpoints; empty for an unknown path."""
    found = {
        method
        for method in METHODS
        for route in app.router.routes
        if route.matches({**scope, "method": method})[0] is Match.FULL
    }
    if "GET" in found:
        found.add("HEAD")
    return [method for method in METHODS if method in found]


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, RankpressError)
    if error.status >= 500:
        await logger.aerror("problem", slug=error.slug, detail=error.detail, exc_info=error)
    return response_to(error, request.scope.get("request_id"))


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    items = items_of(error.errors(), {})
    detail = "; ".join(f"{item.pointer}: {item.detail}" for item in items)
    return await _ours(request, InvalidRequest(detail, errors=items))


async def _framework(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, and what FastAPI raises as an HTTPException."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ClientDisconnect):
        raise error.__cause__
    headers = dict(error.headers or {})
    method, path = request.method, request.url.path[:200]
    if error.status_code == 405:
        allow = allowed_methods(request.app, request.scope)
        headers["Allow"] = ", ".join(allow)
        detail = f"{method} is not allowed on {path}; it takes {', '.join(allow)}"
    elif error.status_code == 404:
        detail = f"no resource at {path}; /openapi.json lists them"
    else:
        detail = str(error.detail)
    cls = FRAMEWORK.get(error.status_code, BadRequest if error.status_code < 500 else InternalError)
    return await _ours(request, cls(detail, headers=headers))
