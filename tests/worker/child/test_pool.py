"""Who gets which compute process, and when a job's files on this machine go."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.end_to_end.processes import wait_until
from worker.child.pool import ChildPool

IDLE_SECONDS = 0.05


class Watched:
    """A pool that evicts almost at once, and the jobs whose files have gone."""

    def __init__(self) -> None:
        self.gone: list[str] = []
        self.pool = ChildPool(self.gone.append, IDLE_SECONDS)
        self.pool.start()


@pytest.fixture
def watched() -> Iterator[Watched]:
    found = Watched()
    yield found
    found.pool.close()


def test_a_process_is_kept_for_its_job_alone() -> None:
    pool = ChildPool()
    pool.begin("a")
    pool.begin("b")
    one = pool.take("a")
    other = pool.take("a")
    assert one is not other
    pool.give_back("a", one)
    assert pool.take("a") is one
    third = pool.take("b")
    assert third not in (one, other)
    pool.give_back("a", one)
    pool.end("a")
    assert not one._process.is_alive()
    assert other._process.is_alive()  # busy: whoever uses it gives it up
    pool.give_up("a", other)
    assert not other._process.is_alive()
    assert not pool.closed
    pool.close()
    assert pool.closed
    third._process.join(10)
    assert not third._process.is_alive()


def test_a_long_pause_between_two_steps_leaves_the_files(watched: Watched) -> None:
    """As while a result goes to a remote store, or the database does not answer."""
    pool = watched.pool
    pool.begin("a")
    child = pool.take("a")
    pool.give_back("a", child)
    wait_until(lambda: not child._process.is_alive(), what="the eviction")
    assert watched.gone == []
    pool.give_back("a", pool.take("a"))  # a new one
    pool.end("a")
    assert watched.gone == ["a"]


def test_the_files_stay_until_the_last_run_ends(watched: Watched) -> None:
    pool = watched.pool
    pool.begin("a")
    pool.begin("a")
    pool.end("a")
    assert watched.gone == []
    pool.leave("a")
    wait_until(lambda: watched.gone == ["a"], what="the eviction")


def test_a_process_stays_for_the_next_group(watched: Watched) -> None:
    pool = ChildPool(watched.gone.append)
    pool.begin("a")
    child = pool.take("a")
    pool.give_back("a", child)
    pool.leave("a")
    pool.begin("a")
    assert pool.take("a") is child
    assert watched.gone == []
    pool.close()


def test_a_cancelled_run_s_files_go_with_its_process(watched: Watched) -> None:
    pool = watched.pool
    pool.begin("a")
    child = pool.take("a")
    pool.end("a")
    assert watched.gone == []
    pool.give_up("a", child)
    assert watched.gone == ["a"]


def test_no_run_begins_while_its_files_are_going() -> None:
    going, may_end = threading.Event(), threading.Event()

    def remove(job_id: str) -> None:
        going.set()
        may_end.wait(10)

    pool = ChildPool(remove)
    pool.begin("a")
    ending = threading.Thread(target=pool.end, args=("a",))
    ending.start()
    assert going.wait(10)
    beginning = threading.Thread(target=pool.begin, args=("a",))
    beginning.start()
    beginning.join(0.2)
    assert beginning.is_alive()
    may_end.set()
    for thread in (ending, beginning):
        thread.join(10)
        assert not thread.is_alive()
