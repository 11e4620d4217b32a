"""A webhook's message, its retries, and what one attempt makes of the receiver's answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from standardwebhooks import Webhook as Verifier

from rankpress.names import DeliveryOutcome, State, WebhookType
from rankpress.schemas.job import Job, Links
from rankpress.schemas.request import JobRequest, Webhook
from rankpress.schemas.webhook import Delivery, WebhookEvent
from rankpress.service.engine import Engine, migrate
from rankpress.service.records import Record
from rankpress.service.settings import Settings
from rankpress.service.spec import JobSpec
from tests.hookreceiver import Call, Receiver, receiving
from worker.jobs.metrics import WorkerMetrics
from worker.webhooks import backoff
from worker.webhooks.delivery import Courier
from worker.webhooks.message import event_of, headers_of, message_id

SECRET = "whsec_" + "bXlzZWNyZXRrZXlteXNlY3JldGtleW15c2VjcmV0a2V5"
OUTCOME = DeliveryOutcome
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
END = NOW - timedelta(minutes=1)


def request_to(url: str) -> JobRequest:
    return JobRequest(model="m", threshold=0.9, webhook=Webhook(url=url, secret=SECRET))


def a_job(state: State) -> Job:
    return Job(
        id="j1",
        state=state,
        created_at=END - timedelta(hours=1),
        finished_at=END,
        request=request_to("https://hook.example/?token=t0k"),
        links=Links(self="/v1/jobs/j1"),
    )


@pytest.mark.parametrize("state", [s for s in State if s.terminal])
def test_the_event_says_how_the_job_ended(state: State) -> None:
    event = event_of(a_job(state))
    assert event.type == f"job.{state}"
    assert event.timestamp == END
    assert WebhookEvent.model_validate_json(event.model_dump_json()) == event
    assert SECRET not in event.model_dump_json()
    assert event.data.request.webhook is not None
    assert event.data.request.webhook.secret == "whsec_redacted"


def test_every_end_has_an_event() -> None:
    assert {f"job.{s}" for s in State if s.terminal} == {str(t) for t in WebhookType}


def test_the_signature_verifies_and_nothing_else_does() -> None:
    now = datetime.now(UTC)
    body = event_of(a_job(State.SUCCEEDED)).model_dump_json()
    headers = headers_of(SECRET, "msg_1", now, body.encode())
    assert Verifier(SECRET).verify(body, headers) == json.loads(body)
    for changed in (
        (body + " ", headers),
        (body, {**headers, "webhook-id": "msg_2"}),
        (body, {**headers, "webhook-timestamp": str(int(now.timestamp()) + 1)}),
    ):
        with pytest.raises(Exception, match="No matching signature"):
            Verifier(SECRET).verify(*changed)


def test_the_id_is_the_jobs_own() -> None:
    job = a_job(State.FAILED)
    assert message_id(job) == message_id(job.model_copy(update={"state": State.FAILED}))
    again = job.model_copy(update={"created_at": job.created_at + timedelta(milliseconds=1)})
    assert message_id(job) != message_id(again), "a job of the same id, made after a deletion"
    assert "." not in message_id(job)


def test_attempts_spread_over_a_day() -> None:
    settings = Settings()
    first = settings.webhook_first_retry_seconds
    pauses = [backoff.delay(i, first, None, 0.5) for i in range(1, settings.webhook_attempts)]
    assert pauses == sorted(pauses)
    assert pauses[:3] == [5, 20, 80]
    assert 20 * 3600 < sum(pauses) < 36 * 3600


@given(
    attempt=st.integers(1, 100),
    first=st.floats(0.01, 100),
    asked=st.none() | st.floats(0, 1e9),
    roll=st.floats(0, 1),
)
def test_the_pause_is_bounded(attempt: int, first: float, asked: float | None, roll: float) -> None:
    pause = backoff.delay(attempt, first, asked, roll)
    plain = min(first * 4.0 ** min(attempt - 1, 50), backoff.LONGEST_SECONDS)
    assert 0.8 * plain - 1e-9 <= pause
    assert pause >= min(asked or 0, 86400)
    assert pause <= max(1.2 * plain + 1e-9, min(asked or 0, 86400))


def test_the_dice_differ() -> None:
    assert len({backoff.roll() for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60.0),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0.0),
        ("Fri, 02 Jan 2026 03:05:05", 60.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        ("9" * 400, 999999999.0),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert backoff.parse_retry_after(text, NOW) == seconds


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"))
    migrate(settings)
    opened = Engine(settings)
    yield opened
    opened.close()


def ended(url: str, state: State = State.SUCCEEDED) -> Record:
    spec = JobSpec(tenant="default", job_id="j1", request=request_to(url), body_sha256="0")
    end = int(END.timestamp() * 1000)
    return Record(spec, state, end - 1000, end - 500, end, None, {})


def attempt(engine: Engine, url: str, number: int = 1, **settings: object) -> Delivery:
    allowed = {"webhook_allow_http": True, "webhook_allow_private": True, **settings}
    courier = Courier(Settings(**allowed), engine, WorkerMetrics(CollectorRegistry()))  # type: ignore[arg-type]
    return asyncio.run(courier.attempt(ended(url), number))


def check(call: Call) -> WebhookEvent:
    Verifier(SECRET).verify(call.body, call.headers)
    return WebhookEvent.model_validate_json(call.body)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, OUTCOME.DELIVERED),
        (204, OUTCOME.DELIVERED),
        (301, OUTCOME.RETRYING),
        (400, OUTCOME.RETRYING),
        (404, OUTCOME.RETRYING),
        (410, OUTCOME.GONE),
        (429, OUTCOME.RETRYING),
        (500, OUTCOME.RETRYING),
    ],
)
def test_what_an_answer_means(
    status: int, outcome: DeliveryOutcome, engine: Engine, receiver: Receiver
) -> None:
    made = attempt(engine, receiver.on("/hook", (status, {"Location": "/elsewhere"}, b"")))
    assert made.outcome is outcome
    assert made.status == status
    assert (made.next_in_seconds is not None) == (outcome is OUTCOME.RETRYING)
    (call,) = receiver.calls
    assert check(call).data.id == "j1"
    assert call.headers["content-type"] == "application/json"


def test_retry_after_is_honoured(engine: Engine, receiver: Receiver) -> None:
    made = attempt(engine, receiver.on("/hook", (503, {"Retry-After": "1000"}, b"")))
    assert made.next_in_seconds == 1000


def test_the_last_attempt_is_the_last(engine: Engine, receiver: Receiver) -> None:
    url = receiver.on("/hook", (500, {}, b""))
    assert attempt(engine, url, 2, webhook_attempts=3).outcome is OUTCOME.RETRYING
    made = attempt(engine, url, 3, webhook_attempts=3)
    assert made.outcome is OUTCOME.GIVEN_UP
    assert made.next_in_seconds is None


def test_attempts_differ_in_time_and_signature_alone(engine: Engine, receiver: Receiver) -> None:
    url = receiver.on("/hook", (500, {}, b""))
    for number in (1, 2):
        attempt(engine, url, number)
    first, second = receiver.calls
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_the_guard_is_asked(engine: Engine, receiver: Receiver) -> None:
    made = attempt(engine, receiver.url + "/hook", webhook_allow_private=False)
    assert made.outcome is OUTCOME.REFUSED
    assert receiver.calls == []
    assert made.next_in_seconds is None


def test_nobody_there_is_tried_again(engine: Engine) -> None:
    with receiving() as gone:
        url = gone.url
    made = attempt(engine, url + "/hook")
    assert made.outcome is OUTCOME.RETRYING
    assert made.status is None
    assert "127.0.0.1" not in made.detail


def test_neither_secret_nor_address_is_logged(
    engine: Engine, receiver: Receiver, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    attempt(engine, receiver.on("/hook?token=t0k", (500, {}, b"")))
    text = capsys.readouterr().out
    assert "webhook_attempt" in text
    assert not any(word in text for word in ("t0k", SECRET[6:], "127.0.0.1"))
