"""The worker's side of a compute process that dies or hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankpress.errors import ChildDied
from rankpress.schemas.request import JobRequest
from worker.child import process
from worker.child.messages import JobInputs, Read, ReadResult
from worker.child.process import Child

REQUEST = JobRequest(model="m", threshold=0.5)


@pytest.fixture
def child() -> Iterator[Child]:
    found = Child()
    yield found
    found.kill()


def read(child: Child, path: Path) -> ReadResult:
    inputs = JobInputs(request=REQUEST, models=(path,), model_names=("m",))

    async def nothing(done: int, total: int) -> None:
        pass

    return asyncio.run(child.call(Read(inputs=inputs), ReadResult, nothing))


def test_one_that_neither_answers_nor_computes_is_ended(
    child: Child, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(process, "STUCK_SECONDS", 0.3)
    os.kill(child._process.pid or 0, signal.SIGSTOP)
    with pytest.raises(ChildDied, match="neither answered nor computed"):
        read(child, tmp_path / "none")
    assert not child._process.is_alive()


def test_one_that_is_killed_says_by_what(child: Child, tmp_path: Path) -> None:
    os.kill(child._process.pid or 0, signal.SIGSTOP)  # so that it cannot answer before
    threading.Timer(0.3, child._process.kill).start()
    with pytest.raises(ChildDied, match="SIGKILL"):
        read(child, tmp_path / "none")


def test_computing_is_no_hanging(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU time that goes on is a sign of life."""
    ticks = iter(range(1000))
    monkeypatch.setattr(process, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(process, "STUCK_SECONDS", 0.05)
    monkeypatch.setattr(child, "_cpu_ticks", lambda: next(ticks))
    waiter = threading.Thread(target=child._wait, daemon=True)
    waiter.start()
    time.sleep(0.3)
    assert waiter.is_alive()
    child.kill()
    waiter.join(10)
