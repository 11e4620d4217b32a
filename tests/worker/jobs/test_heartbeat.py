"""A worker's file says whether it lives, whatever the wall clock says."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rankpress.service.settings import Settings
from worker.jobs.heartbeat import STALE_SECONDS, Heartbeat, is_fresh, path_of

DAY = 86_400.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def beating(settings: Settings) -> Heartbeat:
    """Has written once; nothing follows, as of a worker that died."""
    made = Heartbeat(settings)
    made._stop.set()
    made.start()
    made._thread.join()
    return made


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + seconds)


def test_alive_from_the_first_beat_to_the_end(settings: Settings) -> None:
    assert not is_fresh(settings)
    beat = Heartbeat(settings)
    beat.start()
    assert is_fresh(settings)
    beat.stop()
    assert not is_fresh(settings)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_is_set_says_nothing(
    settings: Settings, beating: Heartbeat, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    set_to = time.time() + jump
    monkeypatch.setattr(time, "time", lambda: set_to)
    assert is_fresh(settings)
    os.utime(path_of(settings), (set_to, set_to))
    assert is_fresh(settings)
    pass_time(monkeypatch, STALE_SECONDS + 1)
    assert not is_fresh(settings), "dead is dead, also after the clock was set back"


def test_the_file_of_before_a_restart_of_the_machine(
    settings: Settings, beating: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_time(monkeypatch, -time.monotonic())
    assert not is_fresh(settings)


def test_another_file_is_no_heartbeat(settings: Settings, beating: Heartbeat) -> None:
    path_of(settings).write_text("")
    assert not is_fresh(settings)
