"""What goes over the wire is what it was: a change shows as a changed file.

`golden/` is what this version says, and `older/` what released ones said, which are read for ever.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from rankpress.schemas.base import Frozen, Strict
from tests.wire.messages import GOLDEN, SECRET, T0, documents, pretty, texts

DOCUMENTS = documents()
OLDER = sorted((Path(__file__).parent / "older").rglob("*.json"))


def test_no_golden_file_is_left_over() -> None:
    expected = {f"{name}.json" for name in DOCUMENTS} | set(texts())
    assert {p.name for p in GOLDEN.iterdir()} == expected


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_is_as_it_was(name: str) -> None:
    """After a wanted change: python -m tests.wire.messages"""
    text = (GOLDEN / f"{name}.json").read_text(encoding="utf-8")
    message = DOCUMENTS[name]
    assert pretty(message) == text
    lines = (
        re.sub(r'^ *("(?:[^"\\]|\\.)*"): ', r"\1:", line).strip() for line in text.splitlines()
    )
    assert message.model_dump_json() == "".join(lines)


@pytest.mark.parametrize("name", texts())
def test_text_is_as_it_was(name: str) -> None:
    assert texts()[name] == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_reading_gives_what_was_written(name: str) -> None:
    message = DOCUMENTS[name]
    assert type(message).model_validate_json((GOLDEN / f"{name}.json").read_bytes()) == message


@pytest.mark.parametrize("path", OLDER, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_older_messages_are_read(path: Path) -> None:
    """What was said keeps its meaning: every field of then has the same value now."""
    kind = type(DOCUMENTS[path.stem])
    then = json.loads(path.read_bytes())
    now = json.loads(kind.model_validate(then).model_dump_json())
    assert_within(then, now)


def assert_within(then: Any, now: Any) -> None:
    if isinstance(then, dict):
        assert set(then) <= set(now)
        for key, value in then.items():
            assert_within(value, now[key])
    elif isinstance(then, list):
        assert len(then) == len(now)
        for one, other in zip(then, now, strict=True):
            assert_within(one, other)
    else:
        assert then == now


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_field_of_a_newer_version(name: str) -> None:
    """An answer may grow; a request with a field that nobody knows is a typing error."""
    message = DOCUMENTS[name]
    grown = {**json.loads(message.model_dump_json()), "of_tomorrow": 1}
    if isinstance(message, Strict):
        with pytest.raises(ValueError, match="of_tomorrow"):
            type(message).model_validate(grown)
    else:
        assert isinstance(message, Frozen)
        assert type(message).model_validate(grown) == message


def test_no_secret_in_what_is_answered() -> None:
    for name in ("job-with-webhook.json", "webhook-event.json", "webhook-call.txt"):
        assert SECRET not in (GOLDEN / name).read_text(encoding="utf-8")


def test_the_golden_call_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    head, _, body = (GOLDEN / "webhook-call.txt").read_bytes().partition(b"\n\n")
    headers = dict(line.split(": ", 1) for line in head.decode().splitlines())

    class Then:
        """The receiver's clock, at the time of the call."""

        @staticmethod
        def now(tz: object) -> object:
            return T0

        fromtimestamp = T0.fromtimestamp

    monkeypatch.setattr("standardwebhooks.webhooks.datetime", Then)
    assert Verifier(SECRET).verify(body, headers)["type"] == "job.succeeded"


def test_events_are_framed() -> None:
    """As the HTML standard's parser takes them apart: fields by line, events by blank line."""
    found = []
    for frame in (GOLDEN / "events.txt").read_text(encoding="utf-8").split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in frame.split("\n"))
        assert isinstance(json.loads(fields["data"]), dict)
        found.append((fields["event"], fields.get("id")))
    assert found == [("state", None), ("layer", "3-0"), ("evaluation", "9-0"), ("done", "end")]
