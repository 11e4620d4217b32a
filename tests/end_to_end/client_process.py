"""A caller's process of its own: a file up, a job, its weights down, and what memory that took.

python -m tests.end_to_end.client_process {sync,async} URL SOURCE TARGET
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from rankpress import AsyncClient, Client

TIMEOUT_SECONDS = 600
REQUEST = {"threshold": 0.9, "protect_output": False}
FIRST = save({"w": np.ones((2, 2), np.float32)})


def resident_bytes(name: str) -> int:
    """Of this process: "VmRSS" is now, "VmHWM" the most so far. Linux."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"), re.M)
    assert found is not None
    return int(found[1]) * 1024


def through(url: str, source: Path, target: Path) -> int:
    """Resident bytes once the connection stands, before the transfers."""
    with Client(url, timeout=TIMEOUT_SECONDS) as client:
        client.upload_bytes(FIRST)
        idle = resident_bytes("VmRSS")
        job = client.submit(model=client.upload(source).id, **REQUEST)
        client.wait(job.id)
        client.download(job.id, target)
    return idle


async def through_async(url: str, source: Path, target: Path) -> int:
    async with AsyncClient(url, timeout=TIMEOUT_SECONDS) as client:
        await client.upload_bytes(FIRST)
        idle = resident_bytes("VmRSS")
        job = await client.submit(model=(await client.upload(source)).id, **REQUEST)
        await client.wait(job.id)
        await client.download(job.id, target)
    return idle


def main() -> None:
    kind, url, source, target = sys.argv[1:]
    files = Path(source), Path(target)
    idle = through(url, *files) if kind == "sync" else asyncio.run(through_async(url, *files))
    print(json.dumps({"idle": idle, "peak": resident_bytes("VmHWM")}))


if __name__ == "__main__":
    main()
