"""When a call is tried again, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from rankpress.client.effects import Answer, Call, Flow, Sleep, perform
from rankpress.client.errors import ConnectionFailed, TimedOut

# 408: the body stalled; 429 and 503: come back later; 502 and 504: a proxy's word for the same.
RETRIED = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter, unless the server says how long (`Retry-After`)."""

    attempts: int = 5  # the first one included
    base_seconds: float = 0.5
    cap_seconds: float = 30.0
    retry_after_cap_seconds: float = 300.0
    jitter: Callable[[], float] = random.random  # in [0, 1)

    def delay(self, attempt: int, retry_after: str | None = None) -> float:
        """Seconds before the next attempt; `attempt` counts the failures so far from 1."""
        told = None if retry_after is None else parse_retry_after(retry_after)
        if told is not None:
            return min(told, self.retry_after_cap_seconds)
        ceiling: float = min(self.cap_seconds, self.base_seconds * 2.0 ** (attempt - 1))
        return ceiling * self.jitter()


def parse_retry_after(value: str) -> float | None:
    """Seconds from now; None when the value is neither a number nor an HTTP date."""
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def is_retried(answer: Answer) -> bool:
    """A conflict is tried again only when the server says when: an idempotency key whose first
    request is still being answered."""
    return answer.status in RETRIED or (answer.status == 409 and "retry-after" in answer.headers)


def send(call: Call, policy: RetryPolicy) -> Flow[Answer]:
    """Sends a call that does no harm when it is sent twice. Returns the last answer, a failure
    included; raises `ConnectionFailed` or `TimedOut` when no attempt was answered."""
    for attempt in range(1, policy.attempts + 1):
        last = attempt == policy.attempts
        try:
            answer = yield from perform(call)
        except (ConnectionFailed, TimedOut):
            if last:
                raise
            yield Sleep(policy.delay(attempt))
            continue
        if last or not is_retried(answer):
            return answer
        yield Sleep(policy.delay(attempt, answer.headers.get("retry-after")))
    raise AssertionError("attempts is at least 1")
