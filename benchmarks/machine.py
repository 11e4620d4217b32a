"""What the numbers were taken on."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass

import numpy
import scipy
import sklearn
import torch


@dataclass(frozen=True, kw_only=True)
class Machine:
    at: str
    processor: str
    cores: int
    device: str
    torch_threads: int
    load: tuple[float, float, float]  # before anything ran: others' work makes times longer
    versions: dict[str, str]


def describe() -> Machine:
    return Machine(
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device",
        torch_threads=torch.get_num_threads(),
        load=os.getloadavg(),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
        },
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:  # noqa: PTH123
            return next(
                line.split(":")[1].strip() for line in info if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
