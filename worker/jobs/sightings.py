"""How long something has been there, by a clock that nobody sets."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Set
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


class Sightings:
    """Remembers since when each thing of one kind has been seen, and forgets what has gone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[Hashable, float] = {}

    def of(self, found: Set[T], seconds: float) -> list[T]:
        """Notes what is there now; returns what has been there at every look for so long."""
        now = self._clock()
        self._since = {thing: self._since.get(thing, now) for thing in found}
        return [thing for thing in found if now - self._since[thing] >= seconds]
