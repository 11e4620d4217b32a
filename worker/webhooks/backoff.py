"""When to try again."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FACTOR = 4.0
LONGEST_SECONDS = 6 * 3600.0
JITTER = 0.2  # either way, so that what failed together does not come back together
LONGEST_RETRY_AFTER_SECONDS = 24 * 3600.0


def delay(attempt: int, first_seconds: float, retry_after: float | None, roll: float) -> float:
    """Seconds between the failed `attempt` (from 1) and the next one. `roll` in [0, 1] is the
    jitter's dice. What the receiver asks for is waited out, up to a day."""
    # The exponent is held down, since there may be a hundred attempts.
    plain = min(first_seconds * FACTOR ** min(attempt - 1, 50), LONGEST_SECONDS)
    jittered = plain * (1 - JITTER + 2 * JITTER * roll)
    return max(jittered, min(retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS))


def roll() -> float:
    return random.random()  # noqa: S311 - it spreads load, it keeps no secret


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds, from a number of them or an HTTP date (RFC 9110, 10.2.3); None for neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
