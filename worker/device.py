"""Where the compute runs, and with how many threads."""

from __future__ import annotations

import platform

import torch

import rankpress
from rankpress.errors import Unavailable
from rankpress.schemas.report import Versions
from worker.child.messages import Limits
from worker.cores import cores


def device_for(limits: Limits) -> torch.device:
    """`auto` takes the GPU when there is one; `cuda` without one is an error, never a fallback."""
    if limits.device == "cpu" or (limits.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Unavailable("RANKPRESS_DEVICE is cuda, but this worker sees no CUDA device")
    return torch.device("cuda")


def threads_for(limits: Limits) -> int:
    """CPU threads of this process; zero in the limits means all cores."""
    return limits.threads or cores()


def use_threads(limits: Limits) -> None:
    torch.set_num_threads(threads_for(limits))


def versions(device: torch.device) -> Versions:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Versions(
        rankpress=rankpress.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        device=f"{device.type} ({name})",
    )
