"""What a flow asks its driver to do, as data.

A flow is a generator that yields these and is sent back the answer: the logic (what to send, when
to wait, when to try again) is written once, and `Client` and `AsyncClient` differ only in how they
carry an effect out. An error of an effect is thrown into the flow at its `yield`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

ByteProgress = Callable[[int, int | None], None]
"""Called with the bytes done and the total, None when it is not known."""

CHUNK_BYTES = 1 << 20


class Body(Protocol):
    """What is uploaded. Read anew for each attempt, from `start` bytes on."""

    def chunks(self, start: int = 0) -> Iterator[bytes]: ...


class Sink(Protocol):
    """Where an answer's bytes go, when its status is 200 or 206."""

    def open(self, answer: Answer) -> None:
        """Called with the head, before the bytes; may raise to refuse them."""
        ...

    def write(self, chunk: bytes) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status and headers (keys in lower case); the content unless a sink took it."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One HTTP request. `hold_seconds` is how long the server may hold its answer back."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    body: Body | None = None
    sink: Sink | None = None
    progress: Callable[[int], None] | None = None  # bytes of one chunk that has gone through
    hold_seconds: float = 0.0


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Blocking:
    """Work that would hold an event loop up: hashing, file system, torch."""

    work: Callable[[], Any]


Effect = Call | Sleep | Blocking
Flow = Generator[Effect, Any, T]


def perform(call: Call) -> Flow[Answer]:
    answer: Answer = yield call
    return answer


def blocking(work: Callable[[], T]) -> Flow[T]:
    result: T = yield Blocking(work)
    return result
