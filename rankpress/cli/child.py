"""`python -m rankpress.cli.child MODULE PIPE LOCK`: runs MODULE as its own main program, and ends
when the serving process does, however that ended.

PIPE is the read end of a pipe whose write end only the serving process has: its end of file is
that process's end. LOCK is the descriptor of the data folder's lock, kept open and no more.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

# The serving process is gone, so nobody is waiting: jobs are durable, a short end is enough.
GRACE_SECONDS = 5.0


def main() -> None:
    module, pipe, lock = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for descriptor in (pipe, lock):
        # Not for the compute processes that the worker starts.
        os.set_inheritable(descriptor, False)
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_parent(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    # This process leads its group: what it started goes with it.
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
