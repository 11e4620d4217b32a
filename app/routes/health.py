"""Whether the process lives, whether it can do its work, and what it measured."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from app.auth import check_role
from app.context import CallerDep, Services, ServicesDep
from app.problems import documented
from rankpress import __version__
from rankpress.errors import Unavailable
from rankpress.schemas.base import Frozen
from rankpress.service.api_keys import Role

router = APIRouter(tags=["service"])


class Health(Frozen):
    status: Literal["ok"] = "ok"
    version: str = __version__


class Readiness(Health):
    """What was found besides."""

    live_workers: int
    warnings: tuple[str, ...] = ()


@router.get("/healthz", operation_id="healthz", summary="Liveness: touches nothing")
async def healthz() -> Health:
    return Health()


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Readiness: database and store answer, and the disk has room",
    responses=documented(503, 507),
)
async def readyz(services: ServicesDep) -> Readiness:
    """A missing worker is a warning: jobs wait, and everything else goes on."""
    return await asyncio.to_thread(_ready, services)


def _ready(services: Services) -> Readiness:
    """Raises `Unavailable` or `InsufficientStorage`."""
    services.engine.check()
    services.store.check()
    free, least = services.store.free_bytes(), services.settings.min_free_bytes
    if free is not None and free < least:
        raise Unavailable(
            f"the store's disk has {free} bytes left, fewer than the {least} that are kept free"
        )
    alive = services.leases.count_alive()
    return Readiness(
        live_workers=alive,
        warnings=() if alive else ("no worker is alive: jobs wait until one is started",),
    )


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Prometheus metrics of the API; with keys, for the role admin",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **documented(401, 403),
    },
)
async def get_metrics(services: ServicesDep, caller: CallerDep) -> Response:
    check_role(caller, Role.ADMIN)
    await asyncio.to_thread(_look, services)
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _look(services: Services) -> None:
    """A database that is away must not take the other numbers with it."""
    backlog = workers = None
    with contextlib.suppress(Unavailable):
        backlog = services.engine.backlog()
        workers = services.leases.count_alive()
    services.metrics.looked(backlog, workers, services.store.free_bytes())
