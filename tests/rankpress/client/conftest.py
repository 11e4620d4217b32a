"""Every test of a call runs with both clients: they share the flows, not the drivers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rankpress.client import AsyncClient, Client, RetryPolicy

FAST = RetryPolicy(attempts=4, base_seconds=0.001, retry_after_cap_seconds=0.002)
Drive = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def drive(request: pytest.FixtureRequest) -> Drive:
    """`drive(url, call)`: the result of `call(client)`."""

    def sync(url: str, call: Callable[[Any], Any], **options: Any) -> Any:
        with Client(url, retry=FAST, **options) as client:
            found = call(client)
            return list(found) if hasattr(found, "__next__") else found

    async def awaited(url: str, call: Callable[[Any], Any], **options: Any) -> Any:
        async with AsyncClient(url, retry=FAST, **options) as client:
            found = call(client)
            return [x async for x in found] if hasattr(found, "__anext__") else await found

    if request.param == "sync":
        return sync
    return lambda *args, **options: asyncio.run(awaited(*args, **options))
