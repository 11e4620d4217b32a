"""Server-sent events: what a reader gets, and what one who comes back gets."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpress.service.events import Place
from tests.app.appkit import assert_problem, submit
from tests.app.conftest import Served
from tests.app.jobrows import record_step, set_progress, set_state, succeed


class Event(NamedTuple):
    name: str
    data: Any
    id: str | None


def read(service: Served, job_id: str, last: str | None = None) -> list[Event]:
    headers = {} if last is None else {"Last-Event-ID": last}
    response = service.client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    return parse(response.text)


def parse(text: str) -> list[Event]:
    """By the rules of the HTML standard, as far as the service uses them."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if "data" in fields:
            found.append(Event(fields["event"], json.loads(fields["data"]), fields.get("id")))
    return found


def layer(name: str) -> dict[str, Any]:
    sizes = {"parameters_before": 24, "parameters_after": 24, "bytes_before": 96, "bytes_after": 96}
    kinds = {"kind": "matrix", "dtype": "float32", "action": "kept_dense", "shape": [6, 4]}
    return {"name": name, **kinds, **sizes}


EVALUATION = {
    "task": "classification",
    "architecture": "mlp 4-6",
    "architecture_assumed": True,
    "samples": 3,
    "metrics": [],
    "device": "cpu",
    "artifact_sha256": "0" * 64,
    "seconds": 0.1,
}


@pytest.fixture
def ended(service: Served) -> tuple[Served, str]:
    """A job that two groups and an evaluation led to its end."""
    job_id = submit(service.client)["id"]
    steps = [
        ("read", {"groups": [["a", "b"], ["c"]]}),
        ("factorise", {"layers": [layer("a"), layer("b")]}),
        ("DBOS.setEvent", None),
        ("DBOS.getResult", {"layers": [layer("c")]}),
        ("write", {"layers": [layer("a")]}),
        ("evaluate", {"report": EVALUATION}),
    ]
    for number, (name, output) in enumerate(steps, 1):
        record_step(service.settings, job_id, number, name, output)
    succeed(service.settings, job_id, b"w")
    return service, job_id


def test_the_whole_story(ended: tuple[Served, str]) -> None:
    service, job_id = ended
    events = read(service, job_id)
    assert [(e.name, e.id) for e in events] == [
        ("state", None),
        ("layer", "2-0"),
        ("layer", "2-1"),
        ("layer", "4-0"),
        ("evaluation", "6-0"),
        ("done", "end"),
    ]
    assert [e.data["name"] for e in events if e.name == "layer"] == ["a", "b", "c"]
    assert events[0].data["state"] == "succeeded"
    assert events[4].data["artifact_sha256"] == "0" * 64
    assert events[-1].data == service.client.get(f"/v1/jobs/{job_id}").json()


@pytest.mark.parametrize(
    ("last", "ids"),
    [
        ("2-0", ["2-1", "4-0", "6-0", "end"]),
        ("2-1", ["4-0", "6-0", "end"]),
        ("4-0", ["6-0", "end"]),
        ("6-0", ["end"]),
        ("nonsense", ["2-0", "2-1", "4-0", "6-0", "end"]),
    ],
)
def test_a_reader_who_comes_back_gets_the_rest(
    last: str, ids: list[str], ended: tuple[Served, str]
) -> None:
    service, job_id = ended
    assert [e.id for e in read(service, job_id, last) if e.name != "state"] == ids


def test_a_reader_who_had_the_end_is_sent_away(ended: tuple[Served, str]) -> None:
    service, job_id = ended
    url = f"/v1/jobs/{job_id}/events"
    assert service.client.get(url, headers={"Last-Event-ID": "end"}).status_code == 204


def test_events_come_while_the_job_runs(service: Served) -> None:
    job_id = submit(service.client)["id"]
    seen: list[Event] = []
    url = f"{service.client.base_url}/v1/jobs/{job_id}/events"

    def follow() -> None:
        with httpx.stream("GET", url, timeout=30) as response:
            held = ""
            for text in response.iter_text():
                held += text
                *blocks, held = held.split("\n\n")
                seen.extend(parse("\n\n".join(blocks)))

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 20
        while len(seen) < count:
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)

    reader = threading.Thread(target=follow)
    reader.start()
    wait_for(1)
    set_state(service.settings, job_id, "PENDING")
    set_progress(service.settings, job_id, "factorise", 1, 2)
    wait_for(2)
    record_step(service.settings, job_id, 1, "factorise", {"layers": [layer("a")]})
    wait_for(3)
    set_state(service.settings, job_id, "CANCELLED")
    reader.join(20)
    names = [e.name for e in seen]
    assert names[0] == "state"
    assert names[-2:] == ["state", "done"]
    assert seen[0].data["state"] == "queued"
    assert seen[-1].data["state"] == "canceled"
    assert ("layer", "1-0") in [(e.name, e.id) for e in seen]


def test_a_deleted_job_ends_its_stream(service: Served) -> None:
    job_id = submit(service.client)["id"]
    url = f"{service.client.base_url}/v1/jobs/{job_id}/events"
    with httpx.stream("GET", url, timeout=30) as response:
        chunks = response.iter_text()
        next(chunks)
        service.client.delete(f"/v1/jobs/{job_id}")
        assert "event: done" not in "".join(chunks)
    assert_problem(service.client.get(f"/v1/jobs/{job_id}/events"), 404, "not-found")


def test_more_steps_than_are_read_at_once(
    ended: tuple[Served, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, job_id = ended
    monkeypatch.setattr("app.events.STEPS", 2)
    monkeypatch.setattr("rankpress.service.engine.STEPS", 2)
    ids = [e.id for e in read(service, job_id) if e.name != "state"]
    assert ids == ["2-0", "2-1", "4-0", "6-0", "end"]


@given(st.integers(0, 10**8), st.integers(0, 10**8))
def test_a_place_survives_the_round_trip(step: int, item: int) -> None:
    assert Place.decode(Place(step, item).encode()) == Place(step, item)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b", "1-2-3", "٣-1", "1" * 10 + "-1"])
def test_no_place(text: str) -> None:
    assert Place.decode(text) is None
