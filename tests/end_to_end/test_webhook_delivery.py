"""Webhooks through real processes: every end of a job is told, whatever dies in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Verifier

from rankpress import Client
from rankpress.names import DeliveryOutcome, State, WebhookType
from rankpress.schemas.job import Job
from rankpress.schemas.request import JobRequest, LayerOverride, Webhook
from rankpress.schemas.webhook import Delivery, DeliveryPage, WebhookEvent
from tests.end_to_end.processes import Service, wait_until
from tests.hookreceiver import Call, Receiver, receiving

SECRET = "whsec_" + "bXlzZWNyZXRrZXlteXNlY3JldGtleW15c2VjcmV0a2V5"
SECONDS = 180.0  # a guard against hanging, on a busy machine
ALLOWED = {
    "webhook_allow_http": "true",
    "webhook_allow_private": "true",
    "webhook_first_retry_seconds": "0.2",
    "webhook_attempts": "4",
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def hooked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """An API; the tests start the workers."""
    settings = dict(ALLOWED)
    if request.param == "postgres":
        settings["database_url"] = request.getfixturevalue("postgres_url")
    running = Service(tmp_path, **settings)
    try:
        running.start_api()
        yield running
    finally:
        running.stop()


def submit(client: Client, model: Path, url: str, **fields: object) -> Job:
    upload = client.upload(model)
    webhook = Webhook(url=url, secret=SECRET)
    return client.submit(JobRequest(model=upload.id, threshold=0.9, webhook=webhook, **fields))  # type: ignore[arg-type]


def deliveries(service: Service, job: Job) -> tuple[Delivery, ...]:
    import httpx

    answer = httpx.get(f"{service.url}/v1/jobs/{job.id}/deliveries")
    assert answer.status_code == 200
    return DeliveryPage.model_validate_json(answer.content).items


def checked(call: Call) -> WebhookEvent:
    Verifier(SECRET).verify(call.body, call.headers)
    return WebhookEvent.model_validate_json(call.body)


def test_every_end_is_told(hooked: Service, receiver: Receiver, example_model: Path) -> None:
    with Client(hooked.url) as client:
        canceled = submit(client, example_model, receiver.on("/canceled", (200, {}, b"")))
        client.cancel(canceled.id)
        nothing = (LayerOverride(match="*", rank=10**6),)
        succeeded = submit(
            client,
            example_model,
            receiver.on("/ok", (500, {}, b""), (503, {"Retry-After": "1"}, b""), (200, {}, b"")),
        )
        gone = submit(client, example_model, receiver.on("/gone", (410, {}, b"")))
        dead = submit(client, example_model, receiver.on("/dead", (500, {}, b"")), layers=nothing)
        hidden = submit(client, example_model, "http://nobody.invalid/")
        hooked.start_worker()
        wait_until(lambda: len(receiver.to("/dead")) == 4, seconds=SECONDS, what="four attempts")
        wait_until(lambda: len(receiver.to("/ok")) == 3, seconds=SECONDS, what="three attempts")
        wait_until(lambda: receiver.to("/gone"), seconds=SECONDS, what="the one attempt")
        wait_until(
            lambda: deliveries(hooked, hidden),
            seconds=SECONDS,
            what="the attempt that finds no name",
        )
        assert client.get(succeeded.id).state is State.SUCCEEDED

        for path, job, kind in (
            ("/canceled", canceled, WebhookType.CANCELED),
            ("/ok", succeeded, WebhookType.SUCCEEDED),
        ):
            event = checked(receiver.to(path)[0])
            assert event.type is kind
            assert event.data == client.get(job.id)
            assert event.timestamp == event.data.finished_at
        assert len({c.headers["webhook-id"] for c in receiver.to("/ok")}) == 1
        assert len({c.body for c in receiver.to("/ok")}) == 1
        assert len({c.headers["webhook-id"] for c in receiver.calls}) == 4

    wait_until(lambda: len(deliveries(hooked, succeeded)) == 3, seconds=SECONDS, what="the records")
    assert [(d.attempt, d.outcome, d.status) for d in deliveries(hooked, succeeded)] == [
        (1, DeliveryOutcome.RETRYING, 500),
        (2, DeliveryOutcome.RETRYING, 503),
        (3, DeliveryOutcome.DELIVERED, 200),
    ]
    assert deliveries(hooked, succeeded)[1].next_in_seconds == 1.0  # more than the backoff's
    assert [d.outcome for d in deliveries(hooked, gone)] == [DeliveryOutcome.GONE]
    wait_until(lambda: len(deliveries(hooked, dead)) == 4, seconds=SECONDS, what="the records")
    assert deliveries(hooked, dead)[-1].outcome is DeliveryOutcome.GIVEN_UP
    hooked.stop()
    assert len(receiver.to("/gone")) == 1
    log = hooked.settings.data_dir / "processes.log"
    text = log.read_text()
    assert "webhook_attempt" in text
    assert SECRET[6:] not in text


def test_a_failed_job_is_told(hooked: Service, receiver: Receiver, tmp_path: Path) -> None:
    """Its upload is gone before a worker comes."""
    from safetensors.torch import save_file
    from torch import ones

    save_file({"a.weight": ones(6, 4)}, tmp_path / "m.safetensors")
    with Client(hooked.url) as client:
        job = submit(client, tmp_path / "m.safetensors", receiver.on("/hook", (200, {}, b"")))
        for file in (hooked.settings.data_dir / "store" / "uploads").rglob("data"):
            file.write_bytes(b"\x00" * 40)
        hooked.start_worker()
        wait_until(lambda: receiver.calls, seconds=SECONDS, what="the call")
        event = checked(receiver.calls[0])
        assert event.type is WebhookType.FAILED
        assert event.data.error is not None
        assert event.data == client.get(job.id)


def test_a_delivery_survives_the_workers_death(
    hooked: Service, receiver: Receiver, example_model: Path
) -> None:
    """Killed while a retry waits, and again while nothing is known of the job's end: both are told
    by the next worker, under the same id."""
    with Client(hooked.url) as client:
        url = receiver.on("/hook", (503, {"Retry-After": "3"}, b""), (200, {}, b""))
        job = submit(client, example_model, url)
        hooked.start_worker()
        wait_until(lambda: deliveries(hooked, job), seconds=SECONDS, what="the first attempt")
        hooked.kill_worker()
        # Ends while no worker is there to see it.
        other = submit(client, example_model, receiver.on("/other", (200, {}, b"")))
        client.cancel(other.id)
        assert len(receiver.to("/hook")) == 1
        hooked.start_worker()
        wait_until(lambda: len(receiver.to("/hook")) == 2, seconds=SECONDS, what="the retry")
        wait_until(lambda: receiver.to("/other"), seconds=SECONDS, what="the other's")
        first, second = receiver.to("/hook")
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert checked(receiver.to("/other")[0]).type is WebhookType.CANCELED
        wait_until(lambda: len(deliveries(hooked, job)) == 2, seconds=SECONDS, what="the record")
        # A worker that starts again looks at every ended job, and tells nothing twice.
        hooked.kill_worker()
        third = submit(client, example_model, receiver.on("/third", (200, {}, b"")))
        client.cancel(third.id)
        hooked.start_worker()
        wait_until(lambda: receiver.to("/third"), seconds=SECONDS, what="the third's")
        assert len(receiver.to("/hook")) == 2
        assert len(receiver.to("/other")) == 1
