"""The commands, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from rankpress import __version__
from rankpress.cli import compress, frontier, inspect, jobs, keys, serve, verify
from rankpress.cli.doctor.command import doctor

app = typer.Typer(
    name="rankpress",
    help="Make neural networks smaller by adaptive-rank SVD.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make neural networks smaller by adaptive-rank SVD."""


for command in (
    compress.compress,
    frontier.frontier,
    inspect.inspect,
    verify.verify,
    jobs.jobs,
    jobs.report,
    jobs.download,
    jobs.cancel,
    jobs.delete,
    doctor,
    serve.serve,
    serve.api,
    serve.worker,
):
    app.command()(command)

app.add_typer(keys.keys, name="keys")
