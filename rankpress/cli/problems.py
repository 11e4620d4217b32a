"""From an error to a sentence on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from rankpress.cli.text import plain
from rankpress.errors import RankpressError

OK, PROBLEM, USAGE, INTERRUPTED = 0, 1, 2, 130


class Failed(RankpressError):
    """What a command cannot do on this machine, and what to do about it."""

    slug = "cli-failed"
    title = "Cannot do that"
    status = 0  # never goes over the wire


def run(app: Callable[[], Any]) -> int:
    try:
        app()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else PROBLEM if exit_.code else OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except RankpressError as error:
        show(error)
        return PROBLEM
    except BrokenPipeError:
        # `rankpress jobs | head`: nobody reads on. The interpreter must not flush stdout again.
        sys.stdout = None
        return PROBLEM
    except OSError as error:
        # A path of the caller's own machine, so naming it helps.
        where = f": {error.filename}" if error.filename else ""
        show(Failed(f"{error.strerror or error}{where}"))
        return PROBLEM
    return OK


def show(error: RankpressError) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(plain(f"{error.title}: {error.detail}"), markup=False)
    for item in error.errors:
        console.print(plain(f"  {item.pointer or '(body)'}: {item.detail}"), markup=False)
