"""Which of a resource's media types the caller gets (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rankpress.errors import NotAcceptable

_Q = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")
MOST_RANGES = 100  # more than any client sends; the rest is not read


def choose(accept: str | None, offers: Sequence[str]) -> str:
    """The offer with the highest quality; among equals the first. Without a header, the first.

    The most specific range that names an offer decides its quality, so `text/*, text/csv;q=0`
    refuses CSV alone. Parameters other than q are not looked at. Raises `NotAcceptable`.
    """
    if accept is None or not accept.strip():
        return offers[0]
    ranges = [found for part in accept.split(",")[:MOST_RANGES] if (found := _range(part))]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) == 0:
        raise NotAcceptable(f"Accept names none of what there is: {', '.join(offers)}")
    return best


def _range(part: str) -> tuple[str, float] | None:
    """A media range and its quality; None for what is malformed, as if it were not there."""
    name, *parameters = (piece.strip() for piece in part.lower().split(";"))
    if name.count("/") != 1:
        return None
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            value = value.strip()
            return (name, float(value)) if _Q.fullmatch(value) else None
    return name, 1.0


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    for pattern in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        found = [quality for name, quality in ranges if name == pattern]
        if found:
            return max(found)
    return 0.0
