"""What an endpoint works with: the services opened by the lifespan, and who is asking."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.auth import Authenticator, Caller, check_role, needed_role
from app.metrics import ApiMetrics
from app.rates import RateLimit
from rankpress.errors import NotFound
from rankpress.service.engine import Engine
from rankpress.service.lease import Leases
from rankpress.service.settings import Settings
from rankpress.service.store import Store
from rankpress.service.tracing import Tracing

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(eq=False)
class Transfer:
    """A request that is appending. A newer one stops it: the older is most often a dead
    connection that nobody has noticed yet."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, kw_only=True)
class Services:
    """Opened once per process; every part is safe to share between requests."""

    settings: Settings
    store: Store
    engine: Engine
    leases: Leases
    authenticator: Authenticator
    rates: RateLimit
    metrics: ApiMetrics
    tracing: Tracing
    # Set when the process is told to end: answers that are being held are given.
    closing: threading.Event
    # (tenant, idempotency key) of the submissions that this process is working on
    submitting: set[tuple[str, str]] = field(default_factory=set)
    # (tenant, upload id) of the resumable uploads that this process is appending to
    transfers: dict[tuple[str, str], Transfer] = field(default_factory=dict)


def get_services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


# Documents the scheme; the key itself is read by the authenticator.
_bearer = HTTPBearer(auto_error=False, scheme_name="apiKey", description="rp_<id>_<secret>")


async def current_caller(
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """Raises `Unauthorized`, `Forbidden` and `TooManyRequests`."""
    services = get_services(request)
    caller = await services.authenticator.authenticate(request)
    services.rates.take(caller.tenant)
    check_role(caller, needed_role(request.method))
    return caller


CallerDep = Annotated[Caller, Depends(current_caller)]


def current_tenant(caller: CallerDep) -> str:
    """Whose data the request may see."""
    return caller.tenant


def _checked(kind: str, value: str) -> str:
    """An id that cannot be one is answered as one that is not there."""
    if not ID_PATTERN.fullmatch(value):
        raise NotFound(f"no {kind} of that id")
    return value


def _job_id(job_id: Annotated[str, Path(description="The job's id")]) -> str:
    return _checked("job", job_id)


def _upload_id(upload_id: Annotated[str, Path(description="The upload's id")]) -> str:
    return _checked("upload", upload_id)


ServicesDep = Annotated[Services, Depends(get_services)]
Tenant = Annotated[str, Depends(current_tenant)]
JobId = Annotated[str, Depends(_job_id)]
UploadId = Annotated[str, Depends(_upload_id)]
