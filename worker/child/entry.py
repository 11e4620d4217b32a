"""The compute process's own loop: take a command, run its stage, answer."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from rankpress.errors import InternalError, RankpressError
from rankpress.schemas.base import Frozen
from worker.child.limits import confine, limit_met, no_network
from worker.child.messages import (
    COMMAND,
    Advanced,
    Allocate,
    AnyCommand,
    Calibrate,
    Evaluate,
    Factorise,
    Finished,
    Read,
    Refit,
    Refused,
    Write,
)

if TYPE_CHECKING:
    from worker.pipeline import Pipeline


def serve(commands: Connection, answers: Connection) -> None:
    """Runs until the worker closes its end. `commands` and `answers` carry JSON messages."""
    no_network()  # before the first thread: a thread that is there keeps the network it has
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the worker, which decides
    from worker.pipeline import Pipeline  # imported by the server already; the worker never does

    pipeline = Pipeline()
    received = _received(commands)
    confined = False

    def advanced(done: int, total: int) -> None:
        _say(answers, Advanced(done=done, total=total))

    while True:
        command = COMMAND.validate_json(received.get())
        if not confined:
            confine(command.inputs)
            confined = True
        try:
            result = _run(pipeline, command, advanced)
        except RankpressError as error:
            _say(answers, Refused(problem=error.to_problem()))
        except Exception as error:  # noqa: BLE001 - the worker decides; the log has the reason
            _refuse(answers, error)
        else:
            _say(answers, Finished(result=result.model_dump(mode="json")))


def _run(
    pipeline: Pipeline,
    command: AnyCommand,
    advanced: Callable[[int, int], None],
) -> Frozen:
    match command:
        case Read():
            return pipeline.read(command)
        case Calibrate():
            return pipeline.calibrate(command)
        case Allocate():
            return pipeline.allocate(command, advanced)
        case Factorise():
            return pipeline.factorise(command, advanced)
        case Refit():
            return pipeline.refit(command, advanced)
        case Write():
            return pipeline.write(command, advanced)
        case Evaluate():
            return pipeline.evaluate(command, advanced)


def _received(commands: Connection) -> queue.SimpleQueue[bytes]:
    """Commands, read by a thread of its own, which ends the process when the worker is gone."""
    found: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        while True:
            try:
                found.put(commands.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return found


def _say(answers: Connection, message: Frozen) -> None:
    answers.send_bytes(message.model_dump_json().encode())


def _refuse(answers: Connection, error: Exception) -> None:
    traceback.print_exception(error, file=sys.stderr)
    met = limit_met(error) or InternalError("the worker failed; its log has the reason")
    _say(answers, Refused(problem=met.to_problem()))
