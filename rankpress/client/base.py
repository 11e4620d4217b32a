"""What both clients hold: how a call becomes an httpx request, and the settings."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from rankpress import __version__
from rankpress.client.effects import Answer, Call
from rankpress.client.errors import mapped

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_SECONDS = 60.0


def client_arguments(
    base_url: str, api_key: str | None, timeout: float, verify: ssl.SSLContext | bool
) -> dict[str, Any]:
    """Of httpx.Client and httpx.AsyncClient alike. The key goes to `base_url` alone: no redirect
    is followed. Raises `InvalidAddress` at once, rather than at the first call."""
    with mapped():
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.UnsupportedProtocol("")
        if url.port is not None and url.port > 65535:
            raise httpx.InvalidURL("")
    headers = {"User-Agent": f"rankpress/{__version__}", "Accept": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return {
        "base_url": base_url,
        "headers": headers,
        "timeout": timeout,
        "verify": verify,
        "follow_redirects": False,
    }


def request_arguments(call: Call, timeout: float) -> dict[str, Any]:
    """Keyword arguments of `build_request`, the body aside."""
    patience = httpx.Timeout(timeout, read=timeout + call.hold_seconds)
    return {
        "method": call.method,
        "url": call.path,
        "params": dict(call.params) or None,
        "headers": dict(call.headers),
        "timeout": patience,
    }


def head_of(response: httpx.Response) -> Answer:
    headers: Mapping[str, str] = {k.lower(): v for k, v in response.headers.items()}
    return Answer(status=response.status_code, headers=headers)


def takes_stream(call: Call, answer: Answer) -> bool:
    return call.sink is not None and answer.status in (200, 206)
