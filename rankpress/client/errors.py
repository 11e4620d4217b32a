"""What can go wrong on the caller's side; the server's own problems keep their types.

RankpressError
└── ClientError
    ├── ConnectionFailed    the server was not reached, or the connection broke
    ├── TimedOut            it was reached, and did not answer in time
    ├── InvalidAddress      the address or a header cannot be sent as given
    ├── UnexpectedAnswer    what answered does not speak this API
    ├── SourceChanged       the file was written to while it was being uploaded
    ├── DownloadCorrupt     the bytes do not have the SHA-256 that was announced
    └── JobCanceled         `wait` was called on a job that someone cancelled

Every exception of httpx is mapped to one of them, so that callers never catch httpx types.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from rankpress.errors import RankpressError


class ClientError(RankpressError):
    """Something went wrong between the caller and the server."""

    slug = "client-error"
    title = "Client error"
    status = 0  # never goes over the wire


class ConnectionFailed(ClientError):
    """The server was not reached, or the connection broke."""

    slug = "client-connection-failed"
    title = "Connection failed"


class TimedOut(ClientError):
    """No answer in time."""

    slug = "client-timed-out"
    title = "Timed out"


class InvalidAddress(ClientError):
    """The address or a header cannot be sent as given."""

    slug = "client-invalid-address"
    title = "Invalid address"


class UnexpectedAnswer(ClientError):
    """What answered does not speak this API."""

    slug = "client-unexpected-answer"
    title = "Unexpected answer"


class SourceChanged(ClientError):
    """The file was written to while it was being uploaded."""

    slug = "client-source-changed"
    title = "File changed"


class DownloadCorrupt(ClientError):
    """The bytes do not have the SHA-256 that was announced."""

    slug = "client-download-corrupt"
    title = "Download corrupt"


class JobCanceled(ClientError):
    """The job waited for was cancelled."""

    slug = "client-job-canceled"
    title = "Job canceled"


# Looked up along the exception's own bases, nearest first, so a new httpx subclass is mapped too.
_MAPPED: dict[type[Exception], tuple[type[ClientError], str]] = {
    httpx.TimeoutException: (TimedOut, "the server did not answer in time"),
    httpx.ConnectTimeout: (TimedOut, "no connection to the server within the time allowed"),
    httpx.PoolTimeout: (TimedOut, "no free connection within the time allowed"),
    httpx.ConnectError: (
        ConnectionFailed,
        "cannot reach the server; is it running, and is the address right?",
    ),
    httpx.NetworkError: (ConnectionFailed, "the connection to the server broke"),
    httpx.RemoteProtocolError: (ConnectionFailed, "the server ended the connection mid-answer"),
    httpx.ProxyError: (ConnectionFailed, "the proxy could not be used"),
    httpx.TransportError: (ConnectionFailed, "the connection to the server failed"),
    httpx.UnsupportedProtocol: (InvalidAddress, "the address must start with http:// or https://"),
    httpx.InvalidURL: (InvalidAddress, "the address is no URL; send e.g. http://127.0.0.1:8000"),
    httpx.LocalProtocolError: (InvalidAddress, "a header cannot be sent; is the API key right?"),
    httpx.DecodingError: (UnexpectedAnswer, "the answer's Content-Encoding cannot be decoded"),
    httpx.TooManyRedirects: (UnexpectedAnswer, "the server redirects without end"),
    httpx.HTTPStatusError: (UnexpectedAnswer, "the server answered with an error status"),
    httpx.CookieConflict: (UnexpectedAnswer, "the server sent contradicting cookies"),
    httpx.RequestError: (ConnectionFailed, "the request failed"),
    httpx.HTTPError: (ConnectionFailed, "the request failed"),
    httpx.StreamError: (ClientError, "a stream was used twice or after it was closed"),
}


def from_httpx(error: Exception) -> ClientError | None:
    """The error that stands for an httpx exception; None when it is not one of httpx."""
    for base in type(error).__mro__:
        if base in _MAPPED:
            cls, detail = _MAPPED[base]
            return cls(detail)
    return None


@contextmanager
def mapped() -> Iterator[None]:
    """Raises the mapped error in place of an httpx exception."""
    try:
        yield
    except Exception as error:
        found = from_httpx(error)
        if found is None:
            raise
        raise found from error
