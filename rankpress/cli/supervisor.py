"""API and worker as two child processes: started, watched, restarted, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from rankpress.cli.problems import Failed

# A process that lived shorter died of its start; so many in a row, and starting again is no use.
QUICK_SECONDS = 10.0
QUICK_DEATHS = 5
TICK_SECONDS = 0.1


@dataclass(eq=False)
class Child:
    """One of the two. Each leads a process group of its own: Ctrl-C of the terminal reaches only
    the supervisor, and what the child itself started can be ended with it."""

    name: str
    module: str
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    quick_deaths: int = 0

    def has_died(self) -> bool:
        """Seen before it is reaped, so that its id, and its group's, cannot be another's yet."""
        if self.process is None:
            return False
        seen = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return seen is not None

    def bury(self) -> int:
        """Ends what is left of its group and reaps it; its exit code."""
        assert self.process is not None
        with suppress(ProcessLookupError, PermissionError):  # nothing was left
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        self.process = None
        return code


@dataclass(kw_only=True)
class Supervisor:
    """`run` returns when a signal has ended it, and raises `Failed` when a child cannot live."""

    environment: Mapping[str, str]
    url: str
    lock_descriptor: int
    ready_file: Path | None = None
    grace_seconds: float = 30.0
    pause_seconds: float = 0.5  # before a restart; doubled for each quick death in a row
    children: tuple[Child, ...] = field(
        default_factory=lambda: (Child("API", "app"), Child("worker", "worker"))
    )
    _signals: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()

    def run(self) -> None:
        self._alive_read, alive_write = os.pipe()
        ready = False
        try:
            with self._signals_handled():
                try:
                    while not self._stop.is_set():
                        self._tend()
                        if not ready and self._answers():
                            ready = True
                            self._announce()
                        self._stop.wait(TICK_SECONDS)
                finally:
                    self._end()
        finally:
            os.close(alive_write)
            os.close(self._alive_read)
            if self.ready_file is not None and ready:
                self.ready_file.unlink(missing_ok=True)

    def _tend(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.has_died():
                self._note_death(child, now)
            if child.process is None and now >= child.start_at:
                self._start(child, now)

    def _start(self, child: Child, now: float) -> None:
        passed = (self._alive_read, self.lock_descriptor)
        child.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rankpress.cli.child", child.module, *map(str, passed)],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),  # stdout is this command's own
            pass_fds=passed,
            start_new_session=True,
        )
        child.started_at = now

    def _note_death(self, child: Child, now: float) -> None:
        code = child.bury()
        quick = now - child.started_at < QUICK_SECONDS
        child.quick_deaths = child.quick_deaths + 1 if quick else 0
        if child.quick_deaths >= QUICK_DEATHS:
            raise Failed(
                f"the {child.name} process ended {child.quick_deaths} times right after its start "
                f"(the last time with exit code {code}); its messages are above"
            )
        pause = self.pause_seconds * 2**child.quick_deaths
        child.start_at = now + pause
        sys.stderr.write(f"the {child.name} process ended ({code}); again in {pause:g} s\n")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def _announce(self) -> None:
        print(f"Rankpress is ready at {self.url}", flush=True)
        if self.ready_file is not None:
            # Renamed into place: who sees it, sees all of it.
            partial = self.ready_file.with_name(self.ready_file.name + ".part")
            partial.write_text(json.dumps({"url": self.url, "pid": os.getpid()}))
            partial.replace(self.ready_file)

    def _end(self) -> None:
        """SIGTERM, the grace, then SIGKILL; a second signal shortens the grace."""
        for child in self.children:
            if child.process is not None and not child.has_died():
                # Not `terminate`, which may reap: see `has_died`.
                os.kill(child.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.grace_seconds
        asked = self._signals
        while any(c.process is not None and not c.has_died() for c in self.children):
            if time.monotonic() > deadline or self._signals > asked:
                break
            time.sleep(TICK_SECONDS / 2)
        for child in self.children:
            if child.process is not None:
                child.bury()

    @contextmanager
    def _signals_handled(self) -> Iterator[None]:
        def handle(_number: int, _frame: object) -> None:
            self._signals += 1
            self._stop.set()

        before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
