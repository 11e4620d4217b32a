"""FastAPI's own spans of requests, as far as they are wanted: one a request, from the caller's
trace where it has one."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig

from rankpress.service.tracing import Tracing

PROBES = ("/healthz", "/readyz", "/metrics")


def telemetry_of(tracing: Tracing) -> TelemetryConfig:
    """Metrics and logs are ours; spans of a route's inner parts would only be many."""
    return {
        "tracing": tracing.provider is not None,
        "tracer_provider": tracing.provider,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": _is_a_probe,
    }


def _is_a_probe(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in PROBES
