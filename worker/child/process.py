"""The worker's side of a compute process: start, call, kill. No torch here.

Processes are forked from a server that has imported torch once and does nothing else: it never
computes, never touches CUDA and never opens a file, so each process starts in milliseconds and as
clean as a freshly started one. What a process says is JSON, never a pickle.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import TypeVar

from rankpress.errors import ChildDied, from_problem
from rankpress.schemas.base import Frozen
from worker.child.entry import serve
from worker.child.messages import ANSWER, Advanced, Finished, Refused

R = TypeVar("R", bound=Frozen)
MAX_MESSAGE = 512 * 1024**2
LOOK_SECONDS = 2.0
STUCK_SECONDS = 60.0
PRELOAD = ["worker.child.preload"]
# What a compute process inherits. Not the database's URL, not the store's keys: it opens files
# from strangers.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH")
KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "TORCH_", "PYTORCH_")
HINTS = {
    "SIGKILL": "; most often the machine ran out of memory",
    "SIGXCPU": "; it had used the CPU seconds that are allowed for files of this size",
}

_context = multiprocessing.get_context("forkserver")
_starting = threading.Lock()


def start_server() -> None:
    """Starts the server that processes are forked from, or does nothing when it runs."""
    with _starting, _clean_environment():
        forkserver.set_forkserver_preload(PRELOAD)
        forkserver.ensure_running()


class Child:
    """One compute process. `call` one command at a time; `kill` from any thread."""

    def __init__(self) -> None:
        start_server()
        read_commands, self._commands = _context.Pipe(duplex=False)
        self._answers, write_answers = _context.Pipe(duplex=False)
        self._process = _context.Process(target=serve, args=(read_commands, write_answers))
        self._process.start()
        # Only the process holds these now: its end is the end of file here, and the other way.
        read_commands.close()
        write_answers.close()

    async def call(
        self,
        command: Frozen,
        result: type[R],
        advanced: Callable[[int, int], Awaitable[None]],
    ) -> R:
        """Runs one stage. Raises the stage's own `RankpressError`, or `ChildDied`."""
        await asyncio.to_thread(self._send, command)
        while True:
            message = await asyncio.to_thread(self._receive)
            match ANSWER.validate_json(message):
                case Advanced(done=done, total=total):
                    await advanced(done, total)
                case Finished(result=found):
                    return result.model_validate(found)
                case Refused(problem=problem):
                    raise from_problem(problem)

    def kill(self) -> None:
        """Ends the process at once; its memory, on the GPU too, is given back."""
        self._process.kill()
        self._process.join()

    def _send(self, command: Frozen) -> None:
        try:
            self._commands.send_bytes(command.model_dump_json().encode())
        except OSError as error:
            raise ChildDied(self._post_mortem()) from error

    def _receive(self) -> bytes:
        try:
            self._wait()
            return self._answers.recv_bytes(MAX_MESSAGE)
        except (EOFError, OSError) as error:
            raise ChildDied(self._post_mortem()) from error

    def _wait(self) -> None:
        """Until there is an answer. A process that neither answers nor computes is stuck: Python
        waits for ever for a thread that had no memory to start."""
        used, since = self._cpu_ticks(), time.monotonic()
        while not self._answers.poll(LOOK_SECONDS):
            ticks, now = self._cpu_ticks(), time.monotonic()
            if ticks is None or ticks != used:
                used, since = ticks, now
            elif now - since > STUCK_SECONDS:
                self.kill()
                raise ChildDied(
                    f"the compute process neither answered nor computed for {STUCK_SECONDS:g} s "
                    "and was ended; most often it ran out of memory"
                )

    def _cpu_ticks(self) -> int | None:
        """CPU time of the process so far; None where the system does not say."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return None
        # After the name, which is in brackets and may hold spaces: utime and stime, 14th and 15th.
        fields = stat.rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def _post_mortem(self) -> str:
        self.kill()  # a process that closed its pipe, or said too much, is of no use
        code = self._process.exitcode or 0
        if code >= 0:
            return f"the compute process ended by itself with exit status {code}"
        name = signal.Signals(-code).name
        return f"the compute process was ended by {name}{HINTS.get(name, '')}"


@contextmanager
def _clean_environment() -> Iterator[None]:
    """`os.environ` as a compute process may see it, while the server is started."""
    whole = dict(os.environ)
    kept = {k: v for k, v in whole.items() if k in KEPT or k.startswith(KEPT_PREFIXES)}
    os.environ.clear()
    os.environ.update(kept, ORT_DISABLE_TELEMETRY="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(whole)
