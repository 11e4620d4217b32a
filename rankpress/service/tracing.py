"""Traces: one from the caller's request, over the queue, to the stages in the worker.

Off unless OpenTelemetry's own variables name a collector; then nothing of its SDK is imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from rankpress.schemas.base import Frozen

log = structlog.get_logger(__name__)
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"
# Of the extra `rankpress[otel]`. FastAPI brings the API of OpenTelemetry along, but no exporter.
EXPORTER = "opentelemetry.exporter.otlp.proto.http"


class TraceContext(Frozen):
    """A span as others name it (W3C Trace Context): what crosses the queue."""

    traceparent: str
    tracestate: str | None = None


class Tracing(Protocol):
    """What a process does with spans."""

    provider: Any  # an OpenTelemetry TracerProvider, for the web framework; None without one

    def span(
        self, name: str, parent: TraceContext | None = None, **attributes: str | int | None
    ) -> contextlib.AbstractContextManager[None]:
        """A span around the block, below the one that is open here; below `parent` where none is.
        Attributes get the prefix `rankpress.`; None is left out."""
        ...

    def mark(self, **attributes: str | int | None) -> None:
        """Adds attributes to the span that is open here."""
        ...

    def here(self) -> TraceContext | None:
        """The span that is open here."""
        ...

    def close(self) -> None:
        """Ends what is open and sends what is left, for a moment; then the process may end."""
        ...


class NoTracing:
    """Does nothing, at no cost."""

    provider: Any = None

    def span(
        self, name: str, parent: TraceContext | None = None, **attributes: str | int | None
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def mark(self, **attributes: str | int | None) -> None:
        return

    def here(self) -> TraceContext | None:
        return None

    def close(self) -> None:
        return


def tracing_of(
    environment: Mapping[str, str], *, service: str, version: str, instance: str | None = None
) -> Tracing:
    """For the entry points. What stands in the way of traces is logged and no error: whole
    clusters set these variables for everything that runs in them."""
    if not any(environment.get(name) for name in ENDPOINTS) or _disabled(environment):
        return NoTracing()
    if not _is_installed(EXPORTER):
        log.warning("traces_not_sent", hint="a collector is named; install rankpress[otel]")
        return NoTracing()
    protocol = next((environment[n] for n in PROTOCOLS if environment.get(n)), SPOKEN)
    if protocol != SPOKEN:
        log.warning("traces_not_sent", protocol=protocol, hint=f"only {SPOKEN} is spoken here")
        return NoTracing()
    from rankpress.service.otel import OpenTelemetry

    log.info("traces_sent")
    return OpenTelemetry(service=service, version=version, instance=instance)


def _disabled(environment: Mapping[str, str]) -> bool:
    return (
        environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False
