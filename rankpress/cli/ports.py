"""The port to listen on, looked at before anything is started."""

from __future__ import annotations

import errno
import socket

from rankpress.cli.problems import Failed


def choose(host: str, port: int) -> int:
    """The port itself when it is free, a free one for 0. Raises `Failed` when it is taken or when
    the address is none of this machine's."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise Failed(f"--host {host} is no address of this machine") from error
    with socket.socket(family, kind) as probe:
        # As the server does: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Failed(f"port {port} is in use; choose another, or --port 0") from error
            if error.errno == errno.EACCES:
                raise Failed(f"port {port} needs privileges; choose one above 1023") from error
            raise Failed(f"--host {host} is no address of this machine") from error
        found: int = probe.getsockname()[1]
        return found


def url(host: str, port: int) -> str:
    """Where a client on this machine reaches it: a wildcard address is answered on loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
