"""Conditional and ranged downloads over HTTP, after RFC 9110."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import httpx
import pytest

from tests.app.appkit import assert_problem, submit
from tests.app.conftest import Served
from tests.app.jobrows import set_state, succeed

DATA = bytes(range(256)) * 40
ETAG = f'"{hashlib.sha256(DATA).hexdigest()}"'
SIZE = len(DATA)


@pytest.fixture(scope="module")
def weights(shared: Served) -> tuple[httpx.Client, str]:
    job = submit(shared.client)
    succeed(shared.settings, job["id"], DATA, b'{"job_id": "x"}', name='größe "1".safetensors')
    return shared.client, f"/v1/jobs/{job['id']}/weights"


def test_the_whole(weights: tuple[httpx.Client, str]) -> None:
    client, url = weights
    response = client.get(url)
    assert (response.status_code, response.content) == (200, DATA)
    headers = response.headers
    assert headers["etag"] == ETAG
    digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
    assert headers["repr-digest"] == f"sha-256=:{digest}:"
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-length"] == str(SIZE)
    assert headers["content-type"] == "application/octet-stream"
    assert headers["cache-control"] == "private, no-cache"
    assert headers["content-disposition"] == (
        'attachment; filename="gr__e _1_.safetensors"; '
        "filename*=UTF-8''gr%C3%B6%C3%9Fe%20%221%22.safetensors"
    )


def test_head_is_get_without_the_body(weights: tuple[httpx.Client, str]) -> None:
    client, url = weights
    got, head = client.get(url), client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    different = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in different} == {
        k: v for k, v in got.headers.items() if k not in different
    }


@pytest.mark.parametrize(
    ("value", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-500", SIZE - 500, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes=5-{SIZE * 2}", 5, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("Bytes = 3 - 7", 3, 8),
    ],
)
def test_a_range(value: str, start: int, end: int, weights: tuple[httpx.Client, str]) -> None:
    client, url = weights
    response = client.get(url, headers={"Range": value})
    assert response.status_code == 206
    assert response.content == DATA[start:end]
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert response.headers["content-length"] == str(end - start)
    assert response.headers["etag"] == ETAG


@pytest.mark.parametrize(
    "value", ["bytes=0-1,5-6", "items=0-1", "bytes=5-1", "bytes=-", "bytes=a-b", "bytes", ""]
)
def test_a_range_that_is_ignored(value: str, weights: tuple[httpx.Client, str]) -> None:
    client, url = weights
    response = client.get(url, headers={"Range": value})
    assert (response.status_code, response.content) == (200, DATA)


@pytest.mark.parametrize("value", [f"bytes={SIZE}-", "bytes=-0", f"bytes={'9' * 30}-"])
def test_a_range_beyond_the_end(value: str, weights: tuple[httpx.Client, str]) -> None:
    client, url = weights
    response = client.get(url, headers={"Range": value})
    assert_problem(response, 416, "range-not-satisfiable")
    assert response.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": ETAG}, 304),
        ({"If-None-Match": f'"x", W/{ETAG}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-None-Match": ETAG, "Range": "bytes=0-1"}, 304),
        ({"If-Match": ETAG}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f"W/{ETAG}"}, 412),
        ({"If-Match": '"x"'}, 412),
        ({"If-Range": ETAG, "Range": "bytes=0-1"}, 206),
        ({"If-Range": f"W/{ETAG}", "Range": "bytes=0-1"}, 200),
        ({"If-Range": '"x"', "Range": "bytes=0-1"}, 200),
        ({"If-Range": '"x"', "Range": f"bytes={SIZE}-"}, 200),
    ],
)
def test_conditions(
    headers: dict[str, str], status: int, weights: tuple[httpx.Client, str]
) -> None:
    client, url = weights
    response = client.get(url, headers=headers)
    assert response.status_code == status
    if status == 304:
        assert (response.content, response.headers["etag"]) == (b"", ETAG)
    if status == 412:
        assert_problem(response, 412, "precondition-failed")


@pytest.mark.parametrize(
    ("status", "slug_status"), [("ENQUEUED", 409), ("PENDING", 409), ("CANCELLED", 409)]
)
@pytest.mark.parametrize("what", ["weights", "report"])
def test_nothing_yet(status: str, slug_status: int, what: str, service: Served) -> None:
    job = submit(service.client)
    set_state(service.settings, job["id"], status)
    response = service.client.get(f"/v1/jobs/{job['id']}/{what}")
    assert_problem(response, slug_status, "not-ready")
    assert ("retry-after" in response.headers) == (status != "CANCELLED")


def test_an_artifact_that_is_gone(service: Served) -> None:
    job = submit(service.client)
    succeed(service.settings, job["id"], DATA)
    folder: Path = service.settings.data_dir / "store" / "jobs" / "default" / job["id"]
    (folder / "weights").unlink()
    (folder / "report.json").unlink()
    for what in ("weights", "report"):
        assert_problem(service.client.get(f"/v1/jobs/{job['id']}/{what}"), 404, "not-found")


def test_the_links_of_a_success_lead_somewhere(service: Served) -> None:
    job = submit(service.client)
    succeed(service.settings, job["id"], DATA, b'{"job_id": "x"}')
    links = service.client.get(f"/v1/jobs/{job['id']}").json()["links"]
    assert service.client.get(links["weights"]).content == DATA
    assert service.client.get(links["report"]).json() == {"job_id": "x"}
