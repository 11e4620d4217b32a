"""The client: `Client` and `AsyncClient`. Nothing here imports torch."""

from rankpress.client.async_client import AsyncClient
from rankpress.client.compressing import Compressed, Watchers
from rankpress.client.errors import (
    ClientError,
    ConnectionFailed,
    DownloadCorrupt,
    InvalidAddress,
    JobCanceled,
    SourceChanged,
    TimedOut,
    UnexpectedAnswer,
)
from rankpress.client.frontier import Frontier
from rankpress.client.retry import RetryPolicy
from rankpress.client.sync_client import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Compressed",
    "ConnectionFailed",
    "DownloadCorrupt",
    "Frontier",
    "InvalidAddress",
    "JobCanceled",
    "RetryPolicy",
    "SourceChanged",
    "TimedOut",
    "UnexpectedAnswer",
    "Watchers",
]
