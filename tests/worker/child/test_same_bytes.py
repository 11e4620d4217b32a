"""Forked processes whose first layers run side by side compute what one thread computes.

Found by `make chaos`: a thread limit that was set while another thread was inside OpenBLAS changed
that thread's result in one of three freshly forked processes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SERVERS, FORKS = 3, 8
SCRIPT = f"""
import hashlib, os
import torch
import worker.child.preload
from worker.linalg.parallel import Task, run_tasks
from worker.linalg.spectrum import decompose

def factors(seed):
    generator = torch.Generator().manual_seed(seed)
    left, right = decompose(torch.randn(96, 64, generator=generator)).factors(11)
    return left.contiguous().numpy().tobytes() + right.contiguous().numpy().tobytes()

def digest(threads):
    tasks = [Task(run=lambda s=s: factors(s), cost=1.0, memory=1) for s in range(4)]
    found = run_tasks(tasks, threads=threads, memory=1 << 30, done=lambda _: None)
    return hashlib.sha256(b"".join(found)).hexdigest()

for _ in range({FORKS}):
    if os.fork() == 0:
        print(digest(threads=2), flush=True)
        os._exit(0)
    os.wait()
print(digest(threads=1))
"""


def test_a_fork_s_first_layers_are_the_same_on_two_threads() -> None:
    root = Path(__file__).parents[3]
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], cwd=root, stdout=subprocess.PIPE, text=True
        )
        for _ in range(SERVERS)  # on a busy machine threads meet at more places
    ]
    digests = " ".join(server.communicate()[0] for server in servers).split()
    assert len(digests) == SERVERS * (FORKS + 1)
    assert len(set(digests)) == 1
