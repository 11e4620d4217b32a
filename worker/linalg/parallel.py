"""Several layers at once, one thread each; products of a large one in tiles, over idle threads.

A second thread gains a decomposition little: its tridiagonal form waits for memory. Another layer
on that thread gains nearly all. Every layer is computed as by one thread, and tiles are cut by
shape alone, so that the bytes that come out do not depend on the number of threads.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Task(Generic[T]):
    """`cost` is its expected seconds, `memory` the bytes that it holds while it runs."""

    run: Callable[[], T]
    cost: float
    memory: int


def run_tasks(
    tasks: Sequence[Task[T]], *, threads: int, memory: int, done: Callable[[int], None]
) -> list[T]:
    """The results in the tasks' order. The costliest start first.

    No more than `memory` bytes are in flight, but for a task that alone needs more: it runs alone.
    `done` is called here, in this thread, with the number of tasks that have ended. The first
    error is raised once what runs has ended, and nothing more is started.
    """
    waiting = sorted(range(len(tasks)), key=lambda i: -tasks[i].cost)
    running: dict[Future[T], int] = {}
    found: dict[int, T] = {}
    with _crew(threads) as pool:
        while waiting or running:
            while len(running) < threads and (i := _next(tasks, waiting, running, memory)) >= 0:
                waiting.remove(i)
                running[pool.submit(tasks[i].run)] = i
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                found[running.pop(future)] = future.result()
                done(len(found))
    return [found[i] for i in range(len(tasks))]


def spread(tiles: Sequence[Callable[[], T]]) -> list[T]:
    """The tiles' results in their order. Idle threads of the crew help the one that calls.

    Nobody waits for a tile that has not begun, so that all threads may be inside one at once.
    Outside a crew the tiles run one after the other.
    """
    pool: ThreadPoolExecutor | None = getattr(_member, "pool", None)
    if pool is None or len(tiles) < 2:
        return [tile() for tile in tiles]
    found: dict[int, T] = {}
    left = iter(range(len(tiles)))
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                i = next(left, None)
            if i is None:
                return
            found[i] = tiles[i]()

    helpers = [pool.submit(work) for _ in range(min(_member.size, len(tiles)) - 1)]
    try:
        work()
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()
    return [found[i] for i in range(len(tiles))]


class Ahead(Generic[T]):
    """A value that is computed once: by an idle thread of the crew after `start`, or by whoever
    asks for it first. What no thread has begun when this object goes is never begun."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._future: Future[T | None] | None = None
        self._found: T | None = None

    def start(self) -> None:
        """Does nothing outside a crew, or when it has begun."""
        pool: ThreadPoolExecutor | None = getattr(_member, "pool", None)
        if pool is not None and self._found is None and self._future is None:
            self._future = pool.submit(_computed, weakref.ref(self))

    def result(self) -> T:
        if self._found is None:
            if self._future is None or self._future.cancel():
                self._found = self._function()
            else:
                self._found = self._future.result()
            assert self._found is not None, "alive, since it is asked"
        return self._found


def _computed(ahead: weakref.ref[Ahead[T]]) -> T | None:
    wanted = ahead()
    return None if wanted is None else wanted._function()


def _next(
    tasks: Sequence[Task[T]], waiting: Sequence[int], running: dict[Future[T], int], memory: int
) -> int:
    """The costliest waiting task for which there is memory; -1 when there is none."""
    free = memory - sum(tasks[i].memory for i in running.values())
    return next((i for i in waiting if not running or tasks[i].memory <= free), -1)


_member = threading.local()  # of a crew's thread: its pool, and how many threads that has


@contextmanager
def _crew(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose products run on one thread each. torch's own number is put back at the end."""
    before = torch.get_num_threads()
    pool: ThreadPoolExecutor

    def join() -> None:
        torch.set_num_threads(1)  # OpenMP's number is the thread's own, MKL's the process's
        _member.pool, _member.size = pool, threads

    pool = ThreadPoolExecutor(threads, thread_name_prefix="layer", initializer=join)
    try:
        with pool:
            yield pool
    finally:
        torch.set_num_threads(before)
