"""One trace from the caller over the API and the queue to the stages, as a collector gets it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

from rankpress import Client
from rankpress.errors import TYPE_PREFIX
from rankpress.names import State
from tests.end_to_end.processes import Service, running, wait_until
from tests.otlp_collector import Collector, Span, collecting

pytestmark = pytest.mark.slow
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "whsec_" + "c2VjcmV0" * 4
STAGES = {"read", "factorise", "write", "evaluate", "report"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture
def traced(collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the processes started by this test find in their environment."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # milliseconds


@pytest.fixture
def service(traced: None, tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path, webhook_allow_http="true", webhook_allow_private="true") as service:
        yield service


def submit(service: Service, document: dict[str, Any], flags: str = "01") -> str:
    """The id of a job that a caller asks for in a trace of its own."""
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-{flags}", "tracestate": "theirs=1"}
    answer = httpx.post(f"{service.url}/v1/jobs", json=document, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def of_trace(collector: Collector, job_id: str) -> list[Span]:
    """The caller's trace, once the job's span, which ends last, has come."""

    def whole() -> list[Span]:
        found = [s for s in collector.spans() if s.trace == TRACE]
        return found if any(s.name == "job" for s in found) else []

    found: list[Span] = wait_until(whole, what="the job's span")
    assert {s.attributes["rankpress.job_id"] for s in found} == {job_id}
    return found


def test_one_trace_whose_spans_hang_together(
    service: Service, collector: Collector, example_model: Path, example_validation: Path
) -> None:
    with Client(service.url) as client:
        model, validation = (client.upload(p).id for p in (example_model, example_validation))
        document = {
            "model": model,
            "threshold": 0.9,
            "evaluation": {"validation": validation},
            "webhook": {"url": f"{collector.endpoint}/hook", "secret": SECRET},
        }
        job_id = submit(service, document)
        assert client.wait(job_id, timeout=200).state is State.SUCCEEDED
    spans = of_trace(collector, job_id)
    (request,) = [s for s in spans if s.service == "rankpress-api"]
    (job,) = [s for s in spans if s.name == "job"]
    stages = [s for s in spans if s not in (request, job)]

    assert (request.name, request.parent) == ("POST /v1/jobs", CALLER)
    assert (job.service, job.parent) == ("rankpress-worker", request.id)
    assert {s.service for s in stages} == {"rankpress-worker"}
    assert {s.parent for s in stages} == {job.id}
    assert {s.name for s in stages} == STAGES
    assert not [s for s in spans if s.failed]
    assert all(job.start_ns <= s.start_ns <= s.end_ns <= job.end_ns for s in stages)
    assert request.start_ns < job.start_ns
    # The logs of both processes have the same id.
    request_ids = {s.attributes["rankpress.request_id"] for s in spans}
    assert len(request_ids) == 1
    assert request_ids <= logged(service, "request") & logged(service, "job_started")

    others = [s for s in collector.spans() if s.trace != TRACE]
    assert {s.service for s in others} <= {"rankpress-api"}, "every span of the worker is joined"
    assert not [s for s in others if s.attributes["url.path"] == "/readyz"]
    assert not [body for body in collector.requests if SECRET.encode() in body]


def logged(service: Service, event: str) -> set[str]:
    log = service.settings.data_dir / "processes.log"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return {line["request_id"] for line in lines if line["event"] == event}


def test_a_failed_job_says_where_and_why(
    service: Service, collector: Collector, example_model: Path, tmp_path: Path
) -> None:
    unfit = tmp_path / "unfit.safetensors"
    save_file({"inputs": torch.ones(4, 3), "targets": torch.zeros(4, dtype=torch.int64)}, unfit)
    with Client(service.url) as client:
        model, validation = client.upload(example_model).id, client.upload(unfit).id
        document = {"model": model, "threshold": 0.9, "evaluation": {"validation": validation}}
        job_id = submit(service, document)
        wait_until(lambda: client.get(job_id).state is State.FAILED, what="the failure")
        error = client.get(job_id).error
    assert error is not None
    slug = error.type.removeprefix(TYPE_PREFIX)
    failed = {s.name: s.attributes["error.type"] for s in of_trace(collector, job_id) if s.failed}
    assert failed == {"read": slug, "job": slug}


def test_a_caller_who_does_not_sample_is_left_out(
    service: Service, collector: Collector, example_model: Path
) -> None:
    with Client(service.url) as client:
        job_id = submit(
            service, {"model": client.upload(example_model).id, "threshold": 0.9}, flags="00"
        )
        client.wait(job_id, timeout=200)
        client.get(job_id)  # a trace of its own, after everything
    wait_until(lambda: [s for s in collector.spans() if job_id in s.attributes["url.path"]])
    assert not [s for s in collector.spans() if s.trace == TRACE]
    assert {s.service for s in collector.spans()} == {"rankpress-api"}


@pytest.mark.postgres
def test_the_groups_of_other_workers_hang_below_the_job(
    traced: None, collector: Collector, tmp_path: Path, postgres_url: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "deep.safetensors"
    save_file(
        {f"layers.{i:02d}.weight": torch.randn(384, 320, generator=generator) for i in range(64)},
        path,
    )
    running = Service(
        tmp_path, database_url=postgres_url, fan_out="true", threads="1", step_seconds="0.05"
    )
    try:
        running.start_api()
        for number in range(2):
            running.start_worker(f"worker-{number}")
        wait_until(lambda: running.ready()["live_workers"] == 2, seconds=200, what="both workers")
        with Client(running.url) as client:
            job_id = submit(running, {"model": client.upload(path).id, "threshold": 0.9})
            assert client.wait(job_id, timeout=200).state is State.SUCCEEDED
        spans = of_trace(collector, job_id)
    finally:
        running.stop()
    (job,) = [s for s in spans if s.name == "job"]
    groups = [s for s in spans if s.name == "factorise"]
    assert {s.parent for s in groups} == {job.id}
    numbers = Counter(s.attributes["rankpress.group"] for s in groups)
    assert set(numbers) == set(range(len(numbers)))
    assert len(numbers) >= 4
    assert len({s.instance for s in groups}) == 2, "some worker had nothing to do"
