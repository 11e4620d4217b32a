"""HTTP by hand over a socket, for what a well-behaved client would never do."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

from tests.app.conftest import Served


def connect(service: Served) -> socket.socket:
    parts = urlsplit(str(service.client.base_url))
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def head(method: str, path: str, **headers: str) -> bytes:
    fields = {"Host": "127.0.0.1", **{k.replace("_", "-"): v for k, v in headers.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def read_to_end(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers in lower case, and the JSON body, of an answer that ends the connection."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    top, _, body = received.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)
