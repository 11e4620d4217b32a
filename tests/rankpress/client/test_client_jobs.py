"""Submitting, waiting, listing, and the errors of each."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from rankpress.client import (
    Client,
    ConnectionFailed,
    InvalidAddress,
    JobCanceled,
    RetryPolicy,
    TimedOut,
    UnexpectedAnswer,
)
from rankpress.client import jobs as flows
from rankpress.client.effects import Answer, Call, Sleep
from rankpress.client.retry import parse_retry_after
from rankpress.errors import (
    Conflict,
    InternalError,
    InvalidRequest,
    NotFound,
    TooManyAttempts,
    Unauthorized,
)
from rankpress.names import Rule, State
from rankpress.schemas.job import Job, JobPage
from rankpress.schemas.request import JobRequest
from tests.rankpress.client.fakeservice import Reply, Seen, hangs_up, problem, running
from tests.rankpress.client.fakeservice import make_job as job


def answers(model: Any, status: int = 200) -> Any:
    return lambda reply, _seen: reply.send_model(model, status)


def test_submit_sends_what_was_said_and_no_more(drive: Any) -> None:
    with running(answers(job(), 202)) as service:
        found = drive(
            service.url, lambda c: c.submit(model="up_1", threshold=0.9, rule=Rule.ENERGY)
        )
    assert found.state is State.QUEUED
    (seen,) = service.seen
    assert json.loads(seen.body) == {"model": "up_1", "threshold": 0.9, "rule": "energy"}
    assert seen.headers["content-type"] == "application/json"
    assert len(seen.headers["idempotency-key"]) >= 32


def test_a_submit_that_is_tried_again_keeps_its_key(drive: Any) -> None:
    making = problem(Conflict("still being made"), Retry_After="0")
    with running(hangs_up, making, answers(job(), 202)) as service:
        drive(service.url, lambda c: c.submit(model="up_1", threshold=0.9))
    assert len({s.headers["idempotency-key"] for s in service.seen}) == 1
    assert len({s.body for s in service.seen}) == 1
    with running(answers(job(), 202)) as service:
        request = JobRequest(model="up_1", threshold=0.9)
        drive(service.url, lambda c: c.submit(request, idempotency_key="mine"))
    assert service.seen[0].headers["idempotency-key"] == "mine"


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"model": "up_1", "threshold": 1.5}, "/threshold"),
        ({"model": "up_1", "threshold": "0.9"}, "/threshold"),
        ({"model": "up_1"}, "threshold: required"),
        ({"model": "up_1", "threshold": 0.9, "treshold": 1}, "/treshold"),
        ({"threshold": 0.9}, "/model"),
    ],
)
def test_wrong_fields_are_said_before_anything_is_sent(
    drive: Any, fields: dict[str, Any], pointer: str
) -> None:
    with running(answers(job())) as service, pytest.raises(InvalidRequest) as caught:
        drive(service.url, lambda c: c.submit(**fields))
    assert pointer in caught.value.detail
    assert service.seen == []


def test_wait_shows_progress_and_ends_with_success(drive: Any) -> None:
    shown: list[Job] = []
    states = [job(), job("running"), job("running"), job("succeeded")]
    with running(*map(answers, states)) as service:
        found = drive(service.url, lambda c: c.wait("j1", on_progress=shown.append))
    assert found.state is State.SUCCEEDED
    assert [j.state for j in shown] == ["queued", "running", "succeeded"]
    assert all(s.headers["prefer"] == "wait=1" for s in service.seen)


def test_wait_raises_how_the_job_ended(drive: Any) -> None:
    error = TooManyAttempts("it died five times").to_problem()
    with running(answers(job("failed", error=error))) as service:
        with pytest.raises(TooManyAttempts, match="five times"):
            drive(service.url, lambda c: c.wait("j1"))
        assert service.seen[0].headers["prefer"] == "wait=20"
    with running(answers(job("canceled"))) as service, pytest.raises(JobCanceled):
        drive(service.url, lambda c: c.wait("j1"))
    with running(answers(job("failed"))) as service, pytest.raises(InternalError):
        drive(service.url, lambda c: c.wait("j1"))


class Clock:
    """A wait flow driven by hand: the server holds its answers for `held` of what it may."""

    def __init__(self, held: float) -> None:
        self.now, self.held = 0.0, held
        self.holds: list[float] = []
        self.sleeps: list[float] = []

    def drive(self, timeout: float | None, steps: int) -> None:
        flow: Generator[Any, Any, Job] = flows.wait(
            "j1", timeout=timeout, on_progress=None, policy=RetryPolicy(), clock=lambda: self.now
        )
        effect = next(flow)
        for _ in range(steps):
            if isinstance(effect, Call):
                self.holds.append(effect.hold_seconds)
                self.now += effect.hold_seconds * self.held
                content = job("running").model_dump_json().encode()
                effect = flow.send(Answer(status=200, headers={}, content=content))
            else:
                assert isinstance(effect, Sleep)
                self.sleeps.append(effect.seconds)
                self.now += effect.seconds
                effect = flow.send(None)


def test_wait_asks_again_at_once_when_the_server_held_its_answer() -> None:
    clock = Clock(held=1)
    clock.drive(None, 5)
    assert (clock.holds, clock.sleeps) == ([20] * 5, [])


def test_wait_does_not_hammer_a_server_that_does_not_hold() -> None:
    clock = Clock(held=0)
    clock.drive(None, 40)
    assert clock.sleeps[0] == 0.25
    assert clock.sleeps == sorted(clock.sleeps)
    assert clock.sleeps[-1] == 5.0


@pytest.mark.parametrize("held", [0, 1])
def test_wait_keeps_its_deadline(held: float) -> None:
    clock = Clock(held=held)
    with pytest.raises(TimedOut, match=r"still running after 50\.5 s"):
        clock.drive(50.5, 1000)
    assert clock.now == pytest.approx(50.5)


def test_jobs_go_through_all_pages(drive: Any) -> None:
    pages = [
        JobPage(items=(job(id="a"), job(id="b")), next_cursor="x&y=1"),
        JobPage(items=(job(id="c"),)),
    ]
    with running(*map(answers, pages)) as service:
        found = drive(service.url, lambda c: c.jobs(state=State.QUEUED, page_size=2))
    assert [j.id for j in found] == ["a", "b", "c"]
    assert service.seen[0].path == "/v1/jobs?state=queued&limit=2"
    assert service.seen[1].path == "/v1/jobs?state=queued&limit=2&cursor=x%26y%3D1"


def test_cancel_and_delete(drive: Any) -> None:
    with running(answers(job("canceled"), 202)) as service:
        assert drive(service.url, lambda c: c.cancel("../j")).state is State.CANCELED
    assert (service.seen[0].method, service.seen[0].path) == ("POST", "/v1/jobs/..%2Fj/cancel")

    def gone(reply: Reply, _seen: Seen) -> None:
        reply.send(204)

    with running(gone) as service:
        assert drive(service.url, lambda c: c.delete("j1")) is None
        assert drive(service.url, lambda c: c.delete_upload("u1")) is None
    assert [s.path for s in service.seen] == ["/v1/jobs/j1", "/v1/uploads/u1"]


@pytest.mark.parametrize("error", [NotFound("no job"), Unauthorized("no key"), Conflict("ended")])
def test_problems_come_back_as_their_types(drive: Any, error: Any) -> None:
    with running(problem(error)) as service, pytest.raises(type(error)) as caught:
        drive(service.url, lambda c: c.get("j1"))
    assert caught.value.detail == error.detail
    assert len(service.seen) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"<html>", b'{"id": 3}'])
def test_a_body_that_is_no_job(drive: Any, content: bytes) -> None:
    with (
        running(lambda reply, _seen: reply.send(200, content)) as service,
        pytest.raises(UnexpectedAnswer),
    ):
        drive(service.url, lambda c: c.get("j1"))


def test_an_error_that_is_no_problem_document(drive: Any) -> None:
    with (
        running(lambda r, _s: r.send(403, b"<html>", Content_Type="text/html; x=y")) as service,
        pytest.raises(UnexpectedAnswer, match="403 with text/html"),
    ):
        drive(service.url, lambda c: c.get("j1"))


def test_nobody_listens(drive: Any) -> None:
    with running(hangs_up) as service:
        pass
    with pytest.raises(ConnectionFailed, match="is it running"):
        drive(service.url, lambda c: c.get("j1"))


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:99999999"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InvalidAddress):
        Client(url)


def test_a_key_that_cannot_be_a_header() -> None:
    with (
        running(hangs_up) as service,
        Client(service.url, api_key="a\nb") as client,
        pytest.raises(InvalidAddress) as caught,
    ):
        client.get("j1")
    assert "a\nb" not in caught.value.detail


def test_the_clients_offer_the_same() -> None:
    from rankpress import AsyncClient

    def names(cls: type) -> set[str]:
        return {n for n in vars(cls) if not n.startswith("_")}

    assert names(Client) == names(AsyncClient)


def test_retry_after() -> None:
    assert parse_retry_after("7") == 7
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert parse_retry_after("soon") is None
    policy = RetryPolicy(jitter=lambda: 1.0)
    assert [policy.delay(n) for n in (1, 2, 3, 20)] == [0.5, 1.0, 2.0, 30.0]
    assert policy.delay(1, "99999") == 300
