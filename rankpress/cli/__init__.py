"""The command line: `rankpress ...`. Exit codes: 0 done, 1 a problem (said on stderr), 2 wrong
usage, 130 interrupted."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point. Expected errors end in a sentence, never in a traceback."""
    try:
        from rankpress.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "packaging"):
            raise
        sys.stderr.write("the command line needs its extra: pip install 'rankpress[cli]'\n")
        sys.exit(2)
    from rankpress.cli.problems import run

    sys.exit(run(app))
