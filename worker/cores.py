"""How many CPU cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: "<quota> <period>", or "max <period>"


def cores() -> int:
    """Cores that the process is bound to, no more than a container's quota pays for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(bound or 1, _quota()))


def threads_of_a_job(threads: int, jobs_at_once: int) -> int:
    """`threads` when it is set; else all cores, shared among the jobs of a worker."""
    return threads or max(1, cores() // jobs_at_once)


def _quota() -> int:
    try:
        quota, period = _QUOTA.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return os.cpu_count() or 1
