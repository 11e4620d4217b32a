"""A file that says the worker is alive, for health checks without a port.

It holds the time of the clock that nobody sets, which is one for all processes of a machine: by the
wall clock a living worker would be dead after a jump forward, a dead one alive after one back.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rankpress.service.settings import Settings

INTERVAL_SECONDS = 5.0
STALE_SECONDS = 30.0


def path_of(settings: Settings) -> Path:
    return settings.scratch_dir / f"{settings.worker_name}.alive"


class Heartbeat:
    """Writes the file every five seconds until stopped; then removes it."""

    def __init__(self, settings: Settings) -> None:
        self._path = path_of(settings)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._write()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self._write()

    def _write(self) -> None:
        new = self._path.with_suffix(".new")  # whole at every moment
        new.write_text(str(time.monotonic()), encoding="ascii")
        new.replace(self._path)


def is_fresh(settings: Settings) -> bool:
    """Whether a worker of this name wrote its file in the last half minute."""
    try:
        written = float(path_of(settings).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return False
    return 0 <= time.monotonic() - written < STALE_SECONDS  # negative: of before a restart
