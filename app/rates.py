"""How often one caller may call: a bucket of tokens that fills at a steady rate."""

from __future__ import annotations

import time
from collections.abc import Callable

from rankpress.errors import TooManyRequests

MAX_BUCKETS = 10_000


class RateLimit:
    """`per_second` on average, twice that at once. Used by one event loop alone."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second
        self._burst = max(1.0, 2 * per_second)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # caller -> (tokens, at)

    def take(self, caller: str) -> None:
        """Raises `TooManyRequests` with the time until the next one."""
        if not self._rate:
            return
        now = self._clock()
        tokens, at = self._buckets.get(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        if tokens < 1:
            wait = (1 - tokens) / self._rate
            raise TooManyRequests(
                f"more than {self._rate:g} requests a second; come back in {wait:.2g} s",
                headers={"Retry-After": str(max(1, round(wait)))},
            )
        if len(self._buckets) >= MAX_BUCKETS:
            self._buckets.clear()
        self._buckets[caller] = (tokens - 1, now)
