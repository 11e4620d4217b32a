"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from rankpress.client import Client
from rankpress.client.base import DEFAULT_URL

Url = Annotated[str, typer.Option("--url", envvar="RANKPRESS_URL", help="Address of the service.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="RANKPRESS_API_KEY",
        show_envvar=True,
        help="Better by the variable: command lines are seen by other users.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, for scripts.")]


def connect(url: str, api_key: str | None) -> Client:
    return Client(url, api_key=api_key)


__all__ = ["DEFAULT_URL", "ApiKey", "Json", "Url", "connect"]
