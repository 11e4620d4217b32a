"""Rankpress: a self-hosted service that makes neural networks smaller by adaptive-rank SVD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankpress.client import AsyncClient as AsyncClient
    from rankpress.client import Client as Client
    from rankpress.loading.export import export_template as export_template
    from rankpress.loading.statistics import collect_statistics as collect_statistics

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imported when asked for: API and worker never need httpx, nor do most callers need torch."""
    if name in ("AsyncClient", "Client"):
        from rankpress import client

        return getattr(client, name)
    if name == "export_template":
        from rankpress.loading.export import export_template

        return export_template
    if name == "collect_statistics":
        from rankpress.loading.statistics import collect_statistics

        return collect_statistics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
