"""The bounds of the folder of kept tridiagonal forms. No torch: the worker itself asks, too."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from rankpress.service.localfiles import below

UNUSED_SECONDS = 24 * 3600.0  # after which a form is deleted


def prune(root: Path, max_bytes: int) -> None:
    """Deletes below `root` what was not used for a day, and of the rest what was used longest ago
    until it fits; also the leftovers of a process that died."""
    found = []
    for path in below(root):
        with contextlib.suppress(OSError):
            state = path.stat()
            found.append((state.st_mtime, state.st_size, path))
    oldest, total = time.time() - UNUSED_SECONDS, 0
    for used, size, path in sorted(found, reverse=True):
        total += size
        if used < oldest or total > max_bytes:
            path.unlink(missing_ok=True)
