"""When there are traces, and what a process does with them. A real collector takes them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from rankpress.errors import ChildDied
from rankpress.service import otel
from rankpress.service.otel import OpenTelemetry
from rankpress.service.tracing import EXPORTER, NoTracing, TraceContext, Tracing, tracing_of
from tests.end_to_end.processes import ROOT
from tests.otlp_collector import Collector, Span, collecting

HERE = "http://127.0.0.1:9"  # nobody listens


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        yield found


@pytest.fixture
def tracing(collector: Collector) -> Iterator[OpenTelemetry]:
    made = OpenTelemetry(service="s", version="1", instance="i")
    yield made
    made.close()


def sent(tracing: Tracing, collector: Collector) -> dict[str, Span]:
    tracing.close()
    return {s.name: s for s in collector.spans()}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "named, but nowhere to send to"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_off_without_a_word(environment: dict[str, str]) -> None:
    with structlog.testing.capture_logs() as logs:
        assert isinstance(tracing_of(environment, service="s", version="1"), NoTracing)
    assert logs == []


def test_what_stands_in_the_way_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with structlog.testing.capture_logs() as logs:
        other = {"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        assert isinstance(tracing_of(other, service="s", version="1"), NoTracing)
        monkeypatch.setitem(sys.modules, EXPORTER, None)
        named = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": HERE}
        assert isinstance(tracing_of(named, service="s", version="1"), NoTracing)
    assert [line["hint"] for line in logs] == [
        "only http/protobuf is spoken here",
        "a collector is named; install rankpress[otel]",
    ]


def test_a_named_collector_turns_it_on(collector: Collector) -> None:
    made = tracing_of({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}, service="s", version="1")
    assert isinstance(made, OpenTelemetry)
    with made.span("one"):
        pass
    assert set(sent(made, collector)) == {"one"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("worker.jobs.service", "opentelemetry"), ("app.main", "opentelemetry.sdk")],
)
def test_nothing_is_imported_when_it_is_off(module: str, unwanted: str) -> None:
    # FastAPI itself needs the API of OpenTelemetry.
    code = (
        f"import sys, {module}\n"
        "from rankpress.service.tracing import tracing_of\n"
        "tracing_of({}, service='s', version='1')\n"
        f"sys.exit({unwanted!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_spans_hang_below_what_is_open_else_below_the_parent(
    tracing: OpenTelemetry, collector: Collector
) -> None:
    parent = TraceContext(traceparent=f"00-{'a' * 32}-{'b' * 16}-01", tracestate="theirs=1")
    assert tracing.here() is None
    with tracing.span("job", parent, job_id="j", group=None):
        below = tracing.here()
        assert below is not None
        assert below.tracestate == "theirs=1"
        with tracing.span("read", parent):
            tracing.mark(group=3)
    found = sent(tracing, collector)
    job, read = found["job"], found["read"]
    assert (job.trace, job.parent) == ("a" * 32, "b" * 16)
    assert (read.trace, read.parent) == ("a" * 32, job.id)
    assert below.traceparent == f"00-{'a' * 32}-{job.id}-01"
    assert job.attributes == {"rankpress.job_id": "j"}
    assert read.attributes == {"rankpress.group": 3}
    assert (job.service, job.instance) == ("s", "i")


def test_a_parent_that_is_none_begins_a_trace(tracing: OpenTelemetry, collector: Collector) -> None:
    with tracing.span("job", TraceContext(traceparent="nonsense")):
        pass
    assert sent(tracing, collector)["job"].parent == ""


def test_an_error_is_named_by_its_slug_without_its_text(
    tracing: OpenTelemetry, collector: Collector
) -> None:
    with pytest.raises(ChildDied), tracing.span("job"):
        raise ChildDied("of the caller's own")
    job = sent(tracing, collector)["job"]
    assert job.failed
    assert job.attributes == {"error.type": "child-died"}
    assert b"of the caller's own" not in b"".join(collector.requests)


def test_what_is_open_at_the_end_is_sent_as_interrupted(
    tracing: OpenTelemetry, collector: Collector
) -> None:
    span = tracing.span("job")
    span.__enter__()
    found = sent(tracing, collector)
    span.__exit__(None, None, None)
    assert found["job"].attributes == {"rankpress.interrupted": True}


def test_a_collector_that_does_not_answer_holds_nobody_up(
    tracing: OpenTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(otel, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(tracing.provider, "shutdown", answered.wait)
    tracing.close()
    assert not answered.is_set()
    answered.set()


def test_the_operators_name_for_the_service_comes_first(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    tracing = OpenTelemetry(service="ours", version="1")
    with tracing.span("job"):
        pass
    assert sent(tracing, collector)["job"].service == "theirs"
