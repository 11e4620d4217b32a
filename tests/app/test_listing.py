"""Pages of jobs: every job once, in order, whatever the page size and the filters."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.paging import Cursor, decode_cursor, parse_labels
from rankpress.errors import InvalidRequest
from rankpress.schemas.request import JobRequest
from rankpress.service.engine import Engine
from rankpress.service.settings import Settings
from rankpress.service.spec import JobSpec
from tests.app.conftest import Served
from tests.app.jobrows import set_state


def enqueue(settings: Settings, count: int, tenant: str = "default") -> list[str]:
    """Past the limit on open jobs, which is not what is tested here."""
    engine, ids = Engine(settings), []
    for at in range(count):
        request = JobRequest(
            model="m", threshold=0.5, labels={"parity": str(at % 2), "run": str(at)}
        )
        spec = JobSpec(tenant=tenant, job_id=f"job-{at:03d}", request=request, body_sha256="0")
        assert engine.submit(spec)
        ids.append(spec.job_id)
    engine.close()
    return ids


def walk(client: httpx.Client, **params: Any) -> list[list[str]]:
    """The ids of every page."""
    pages, cursor = [], None
    while True:
        query = {**params, **({} if cursor is None else {"cursor": cursor})}
        page = client.get("/v1/jobs", params=query).json()
        pages.append([job["id"] for job in page["items"]])
        if (cursor := page["next_cursor"]) is None:
            return pages


@pytest.mark.parametrize("limit", [1, 3, 10, 11, 100])
def test_pages_hold_every_job_once_newest_first(limit: int, service: Served) -> None:
    ids = enqueue(service.settings, 10)
    enqueue(service.settings, 3, tenant="another")
    pages = walk(service.client, limit=limit)
    assert all(len(page) == limit for page in pages[:-1])
    assert [job_id for page in pages for job_id in page] == ids[::-1]


def test_filters(service: Served) -> None:
    ids = enqueue(service.settings, 10)
    for job_id in ids[:4]:
        set_state(service.settings, job_id, "CANCELLED")
    flat = lambda **params: [i for page in walk(service.client, **params) for i in page]  # noqa: E731
    assert flat(limit=2, state="canceled") == ids[3::-1]
    assert flat(limit=2, label="parity:1") == ids[9::-2]
    assert flat(limit=2, label="parity:1", state="queued") == ids[9:3:-2]
    assert flat(label=["parity:1", "run:7"]) == ["job-007"]
    assert flat(label=["parity:0", "run:7"]) == []
    assert flat(label="nope:1") == []


def test_a_job_that_comes_meanwhile_moves_nothing(service: Served) -> None:
    ids = enqueue(service.settings, 4)
    first = service.client.get("/v1/jobs", params={"limit": 2}).json()
    service.client.delete(f"/v1/jobs/{first['items'][0]['id']}")
    rest = service.client.get("/v1/jobs", params={"cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in rest["items"]] == ids[1::-1]


@given(st.integers(0, 10**14), st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_a_cursor_survives_the_round_trip(created_ms: int, job_id: str) -> None:
    cursor = Cursor(created_ms, job_id)
    assert decode_cursor(cursor.encode()) == cursor


@given(st.text(max_size=40))
def test_any_text_is_a_cursor_or_is_refused_as_none(text: str) -> None:
    try:
        cursor = decode_cursor(text)
    except InvalidRequest:
        return
    assert decode_cursor(cursor.encode()) == cursor


@pytest.mark.parametrize("text", ["", "bm9wZQ", "MTox=", "é", "OTk5OTk5OTk5OTk5OTk5OTk6YQ"])
def test_a_bad_cursor_is_pointed_at(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_cursor(text)
    assert caught.value.errors[0].pointer == "/query/cursor"


def test_labels_may_hold_colons() -> None:
    assert parse_labels(["url:http://x", "empty:"]) == {"url": "http://x", "empty": ""}
    with pytest.raises(InvalidRequest):
        parse_labels(["a:1", "a:2"])
