"""The data folder, held by one `serve` at a time.

Two locks: `serve.lock` is held by the serving process, `children.lock` by its API and worker as
well, so that a new `serve` after a kill waits until the last process of the old one has ended:
two workers of one name never run at once. The kernel drops both with the processes.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rankpress.cli.problems import Failed

WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class DataDir:
    serve_descriptor: int
    children_descriptor: int

    @classmethod
    def open(cls, path: Path, wait_seconds: float = WAIT_SECONDS) -> Self:
        """Makes the folder where needed. Raises `Failed` when it is in use or not writable."""
        with ExitStack() as stack:
            try:
                path.mkdir(parents=True, exist_ok=True)
                serve, children = (
                    os.open(path / name, os.O_RDWR | os.O_CREAT, 0o600)
                    for name in ("serve.lock", "children.lock")
                )
            except OSError as error:
                user = os.getuid() if hasattr(os, "getuid") else "this user"
                raise Failed(
                    f"the data folder {path} cannot be written by user {user} ({error.strerror}); "
                    "give it to that user or choose another with --data-dir"
                ) from error
            stack.callback(os.close, serve)
            stack.callback(os.close, children)
            if not _lock(serve):
                raise Failed(f"another `rankpress serve` uses the data folder {path}")
            _wait_for(children, path, wait_seconds)
            stack.pop_all()
        return cls(serve, children)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.serve_descriptor)
        os.close(self.children_descriptor)


def _wait_for(descriptor: int, path: Path, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    told = False
    while not _lock(descriptor):
        if time.monotonic() > deadline:
            raise Failed(f"processes of an earlier run still use the data folder {path}")
        if not told:
            sys.stderr.write("waiting for the processes of an earlier run to end ...\n")
            told = True
        time.sleep(0.1)


def _lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError as error:
        raise Failed("serve needs Linux or macOS; on Windows use the container image") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
