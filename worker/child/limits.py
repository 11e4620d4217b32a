"""What a compute process may not do, as far as the platform can say so.

It opens files from strangers: no network, bounded address space, CPU seconds and files, no core
dumps. Each limit that the platform does not have is left out; the container's own limits stand
around all of this.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rankpress.errors import InsufficientStorage, JobFailed, RankpressError
from worker.child.messages import JobInputs, Limits

MIB = 1024**2
GIB = 1024**3
_CPU_SECONDS = 1800
_CPU_SECONDS_PER_MIB = 60
_CPU_GRACE_SECONDS = 10  # from SIGXCPU, which says why, to SIGKILL
_LARGEST_EXPANSION = 16  # broadcast tensors, wider dtypes, second moments of the inputs
# A stack, and the heap that the C library reserves for each thread of each of three thread pools.
_ADDRESS_BYTES_PER_THREAD = 512 * MIB
_NO_MEMORY = "can't allocate memory"  # in the words of torch
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def confine(inputs: JobInputs) -> None:
    """Applied once, before the first file is opened."""
    named = (inputs.validation, inputs.template, inputs.calibration, inputs.statistics)
    paths = [p for p in (*inputs.models, *named) if p is not None and p.exists()]
    allowed = allowance(inputs.limits, sum(p.stat().st_size for p in paths), inputs.request.results)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_CPU, allowed.cpu_seconds, grace=_CPU_GRACE_SECONDS)
    _set(resource.RLIMIT_FSIZE, allowed.file_bytes)
    if inputs.limits.device == "cpu" or not _has_cuda():  # it reserves far more than it uses
        _set(resource.RLIMIT_AS, _address_space() + allowed.address_bytes)


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What the process may use from now on."""

    cpu_seconds: int
    file_bytes: int  # of one file
    address_bytes: int  # beyond what it has mapped already


def allowance(limits: Limits, input_bytes: int, results: int = 1) -> Allowance:
    """By the size of a job's files: what is honest stays far below.

    On two cores, float32, the worst layers measured took one CPU second per mebibyte. Files are
    mapped; parts, output and the input itself may be so at the same time.
    """
    seconds = _CPU_SECONDS + _CPU_SECONDS_PER_MIB * (input_bytes // MIB)
    return Allowance(
        cpu_seconds=limits.cpu_seconds or seconds,
        file_bytes=GIB + (_LARGEST_EXPANSION + results) * input_bytes,
        address_bytes=(limits.memory_bytes or machine_memory())
        + (os.cpu_count() or 1) * _ADDRESS_BYTES_PER_THREAD
        + (2 + results) * input_bytes,
    )


def machine_memory() -> int:
    """Bytes of memory that this machine, or its container, has."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            found.append(int(path.read_text()))
    return min(found)


def limit_met(error: Exception) -> RankpressError | None:
    """What to say of an error that comes from these limits, or from a full disk; None for any
    other."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _NO_MEMORY in str(error):
        return JobFailed("the compute process ran out of the memory that it may use")
    if number == errno.EFBIG:
        return JobFailed("the compute process was about to write a file larger than it may")
    if number in (errno.ENOSPC, errno.EDQUOT):
        return InsufficientStorage("the worker's disk is full; nothing of the job was kept")
    return None


def no_network() -> bool:
    """Moves the process into a network namespace of its own, which has no interface up.

    Called before any other thread is there, since a namespace belongs to a thread and its
    descendants. True when it worked: on Linux, as root or where user namespaces are allowed.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) == 0:
        return True
    # An unprivileged process may do so inside a user namespace of its own, when it has one thread.
    return os.geteuid() != 0 and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0


def _set(limit: int, value: int, *, grace: int = 0) -> None:
    """Lowers a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(limit)
    highest = value + grace
    if hard != resource.RLIM_INFINITY:
        value, highest = min(value, hard), min(highest, hard)
    resource.setrlimit(limit, (value, highest))


def _has_cuda() -> bool:
    import torch  # imported by the server that this process was forked from

    return torch.cuda.is_available()


def _address_space() -> int:
    """Bytes of address space in use now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
