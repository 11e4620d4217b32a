"""Calls to addresses that a caller named: resolved once, checked, and connected to as checked.

The check and the connection use the same numbers, so a second answer of the name server (DNS
rebinding) is never asked for. No redirect is followed, no proxy of the environment is used, and
time and size of the answer are bounded.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple

import httpcore
import httpx

from rankpress.service.addresses import refusal
from rankpress.service.settings import Settings

LOW_PORTS = (80, 443)  # below 1024 nothing else speaks HTTP
HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
MAX_ANSWER_BYTES = 64 * 1024
Resolve = Callable[[str, int], Awaitable[list[str]]]


class Refused(Exception):
    """The guard does not let this call out. The text has no address in it: the answer of an
    inner name server is nothing that a caller may ask for."""


class Unanswered(Exception):
    """No whole answer came; another try may bring one. The text is one of a few fixed ones."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What may be called."""

    allow_http: bool = False
    allow_private: bool = False
    seconds: float = 15.0


def rules_of(settings: Settings) -> Rules:
    return Rules(
        allow_http=settings.webhook_allow_http,
        allow_private=settings.webhook_allow_private,
        seconds=settings.webhook_timeout_seconds,
    )


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case


def check_url(text: str, rules: Rules) -> httpx.URL:
    """What can be said without a name server. Raises `Refused`."""
    try:
        url = httpx.URL(text)
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise Refused("it is not a URL") from error
    if url.scheme not in ("https", "http") or not host:
        raise Refused("an https URL is expected")
    if url.scheme == "http" and not rules.allow_http:
        raise Refused("plain http is not allowed by this service; send an https URL")
    bare = host.rstrip(".").lower()
    number = _numeric(bare)
    if number is None and not HOST.fullmatch(bare):
        raise Refused("the host is not a name")
    if url.userinfo:
        raise Refused("a URL must not carry a user name or password")
    port = _port(url)
    if not (port in LOW_PORTS or 1024 <= port <= 65535):
        raise Refused(f"port {port} is not allowed: 80, 443, or one from 1024 on")
    if (bare == "localhost" or bare.endswith(".localhost")) and not rules.allow_private:
        raise Refused("the host is a loopback name")
    if number is not None:
        _check_addresses([number], rules)
    return url


async def post(
    text: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    rules: Rules,
    resolve: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """One POST. The answer's body is read to its end or to 64 KiB, and forgotten. `tls` and
    `resolve` are the system's own unless given. Raises `Refused` and `Unanswered`."""
    url = check_url(text, rules)
    backend = _Pinned(rules, resolve or system_resolve)
    try:
        async with (
            asyncio.timeout(rules.seconds),
            httpcore.AsyncConnectionPool(
                ssl_context=tls or httpx.create_ssl_context(),
                max_connections=1,
                network_backend=backend,
            ) as pool,
            pool.stream(
                b"POST",
                httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=[(b"Host", url.netloc), *((k, v) for k, v in headers.items())],
                content=body,
                extensions={"timeout": dict.fromkeys(("connect", "read", "write"), rules.seconds)},
            ) as response,
        ):
            await _drain(response)
            named = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers}
            return Answer(response.status, named)
    except (TimeoutError, httpcore.TimeoutException) as error:
        raise Unanswered("no answer in time") from error
    except (httpcore.ConnectError, ssl.SSLError) as error:
        raise Unanswered(_connect_text(error)) from error
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        raise Unanswered("the connection broke, or the answer was not HTTP") from error


async def system_resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to numbers alone. TLS above it still speaks of the host's name."""

    def __init__(self, rules: Rules, resolve: Resolve) -> None:
        self._rules = rules
        self._resolve = resolve
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = list(dict.fromkeys(await self._resolve(host, port)))
        except (OSError, UnicodeError) as error:
            raise Unanswered("the host's name was not found") from error
        if not addresses:
            raise Unanswered("the host's name was not found")
        # All of them: a name with one public address among private ones is refused.
        _check_addresses(addresses, self._rules)
        failed: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        assert failed is not None
        raise failed

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise Refused("not a network address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _check_addresses(addresses: list[str], rules: Rules) -> None:
    for text in addresses:
        reason = refusal(ip_address(text), allow_private=rules.allow_private)
        if reason is not None:
            raise Refused(f"the host is {reason}, which this service does not call")


def _port(url: httpx.URL) -> int:
    return url.port if url.port is not None else {"http": 80, "https": 443}[url.scheme]


def _numeric(host: str) -> str | None:
    """The address that a host of numbers is, in any of the spellings that resolvers take
    (`2130706433`, `0x7f.1`)."""
    try:
        return str(ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


async def _drain(response: httpcore.Response) -> None:
    received = 0
    async for chunk in response.aiter_stream():
        received += len(chunk)
        if received > MAX_ANSWER_BYTES:
            return


def _connect_text(error: BaseException) -> str:
    """TLS errors come wrapped, and are worth a word of their own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return "the TLS handshake failed: certificate or protocol"
        seen = seen.__cause__ or seen.__context__
    return "no connection could be made"
