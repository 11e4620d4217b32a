"""Who is asking: the key in `Authorization: Bearer`, or, while no key exists, anyone here."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from starlette.requests import Request

from rankpress.errors import Forbidden, Unauthorized
from rankpress.service import api_keys
from rankpress.service.api_keys import ApiKey, Role
from rankpress.service.settings import Settings
from rankpress.service.store import Store

T = TypeVar("T")
# How long a revoked key may still work, and how often a key's record is read at most.
REMEMBERED_SECONDS = 5.0
MAX_REMEMBERED = 10_000
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="rankpress"'}


_INVALID = {"WWW-Authenticate": 'Bearer realm="rankpress", error="invalid_token"'}


@dataclass(frozen=True)
class Caller:
    tenant: str
    role: Role


class Authenticator:
    """Reads the keys' records from the store and remembers them for a few seconds."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._local = is_loopback(settings.host) and not settings.open_access
        self._remembered: dict[str, tuple[float, object]] = {}

    async def authenticate(self, request: Request) -> Caller:
        """Raises `Unauthorized`, and `Forbidden` for a page of another origin."""
        if not await self._recall("", lambda: api_keys.any_exists(self._store)):
            refuse_other_origins(request)
            if self._local:
                refuse_other_names(request)
            return Caller("default", Role.ADMIN)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("send a key: Authorization: Bearer rp_...", headers=_CHALLENGE)
        parts = api_keys.split(token.strip())
        record: ApiKey | None = None
        if parts is not None:
            key_id = parts[0]
            record = await self._recall(key_id, lambda: api_keys.find(self._store, key_id))
        if not api_keys.matches(record, "" if parts is None else parts[1]) or record is None:
            raise Unauthorized("the key is not known, or is revoked", headers=_INVALID)
        return Caller(record.tenant, record.role)

    async def _recall(self, name: str, read: Callable[[], T]) -> T:
        now = time.monotonic()
        kept = self._remembered.get(name)
        if kept is not None and kept[0] > now:
            return kept[1]  # type: ignore[return-value]
        value = await asyncio.to_thread(read)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[name] = (now + REMEMBERED_SECONDS, value)
        return value


def needed_role(method: str) -> Role:
    return Role.READ if method in ("GET", "HEAD") else Role.SUBMIT


def check_role(caller: Caller, needed: Role) -> None:
    """Raises `Forbidden`."""
    if not caller.role.may(needed):
        raise Forbidden(f"the key's role is {caller.role}; this needs {needed}")


def refuse_other_origins(request: Request) -> None:
    """Without keys, being reachable is all it takes to be served; a web page that the user has
    open elsewhere can reach this address too. Browsers say where a request comes from."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    foreign = site in ("cross-site", "same-site") and request.headers.get("sec-fetch-mode") != (
        "navigate"
    )
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        foreign = True
    if foreign:
        raise Forbidden("requests of web pages of another origin are not served")


def refuse_other_names(request: Request) -> None:
    """A page can have its own name resolve to 127.0.0.1 and is then of the same origin; the name
    it asks for still gives it away."""
    name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if not is_loopback(name):
        raise Forbidden(
            "without API keys the service answers to 127.0.0.1 and localhost alone; "
            "RANKPRESS_OPEN_ACCESS=true lets it answer to other names"
        )


def check_binding(settings: Settings, store: Store) -> None:
    """Raises ValueError when the service would be open to whoever can reach its address."""
    if settings.open_access or is_loopback(settings.host) or api_keys.any_exists(store):
        return
    raise ValueError(
        f"no API key exists, and {settings.host} can be reached from other machines: "
        "make a key (rankpress keys create), listen on 127.0.0.1, or say "
        "RANKPRESS_OPEN_ACCESS=true if something in front decides who may call"
    )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
