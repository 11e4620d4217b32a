"""Spans by OpenTelemetry's SDK, sent by OTLP over HTTP. Imported only where a collector is named.

Endpoint, headers, sampling, limits and batches are what the SDK reads from its own variables.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rankpress.errors import TYPE_PREFIX, RankpressError
from rankpress.service.tracing import TraceContext

CLOSE_SECONDS = 2.0  # less than a supervisor's patience with a process that was told to end
_propagator = TraceContextTextMapPropagator()  # no baggage: its content is the caller's own affair


class OpenTelemetry:
    """One a process. The global provider is left alone: nobody else's spans are wanted here."""

    def __init__(self, *, service: str, version: str, instance: str | None = None) -> None:
        self.provider = TracerProvider(resource=_resource(service, version, instance))
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self.provider.get_tracer("rankpress", version)
        self._open: set[Span] = set()

    @contextlib.contextmanager
    def span(
        self, name: str, parent: TraceContext | None = None, **attributes: str | int | None
    ) -> Iterator[None]:
        taken_over = parent is not None and not trace.get_current_span().get_span_context().is_valid
        span = self._tracer.start_span(
            name,
            context=_context(parent) if taken_over else None,
            kind=SpanKind.CONSUMER if taken_over else SpanKind.INTERNAL,
            attributes=_named(attributes),
        )
        self._open.add(span)
        token = otel_context.attach(trace.set_span_in_context(span))
        try:
            yield
        except BaseException as error:
            # Its kind alone: a message may name what is the caller's own.
            span.set_attribute("error.type", _kind(error))
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            otel_context.detach(token)
            self._open.discard(span)
            span.end()

    def mark(self, **attributes: str | int | None) -> None:
        trace.get_current_span().set_attributes(_named(attributes))

    def here(self) -> TraceContext | None:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return TraceContext.model_validate(carrier) if carrier else None

    def close(self) -> None:
        for span in list(self._open):
            span.set_attribute("rankpress.interrupted", True)
            span.end()
        # The SDK's own shutdown waits for a collector that does not answer; we do not.
        last = threading.Thread(target=self.provider.shutdown, daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)


def _resource(service: str, version: str, instance: str | None) -> Resource:
    """What the operator says of the process in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    comes before what it says of itself."""
    ours = {"service.name": service, "service.version": version}
    if instance is not None:
        ours["service.instance.id"] = instance
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


def _context(parent: TraceContext | None) -> Context | None:
    if parent is None:
        return None
    return _propagator.extract(parent.model_dump(exclude_none=True))


def _named(attributes: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {f"rankpress.{name}": value for name, value in attributes.items() if value is not None}


def _kind(error: BaseException) -> str:
    """The problem's slug where it is one, also as the database keeps it."""
    if isinstance(error, RankpressError):
        return error.slug
    name = getattr(error, "name", None)
    if isinstance(name, str) and name.startswith(TYPE_PREFIX):
        return name.removeprefix(TYPE_PREFIX)
    return type(error).__qualname__
