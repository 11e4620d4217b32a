"""Resumable uploads. Cut ones: test_resumable_cuts.py."""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from rankpress.service.store import Store
from tests.app import rawhttp
from tests.app.appkit import assert_problem, model_bytes, sha256
from tests.app.conftest import Served, served, small

PARTIAL = {"Content-Type": "application/partial-upload"}


def begin(client: httpx.Client, data: bytes = b"", **headers: str) -> str:
    response = client.post(
        "/v1/uploads",
        content=data,
        headers={"Upload-Complete": "?0", **{k.replace("_", "-"): v for k, v in headers.items()}},
    )
    assert response.status_code == 201, response.text
    assert response.headers["upload-complete"] == "?0"
    assert response.headers["upload-offset"] == str(len(data))
    return response.headers["location"]


def patch(
    client: httpx.Client, url: str, data: bytes, offset: int, complete: bool = False, **headers: str
) -> httpx.Response:
    fields = {
        **PARTIAL,
        "Upload-Offset": str(offset),
        "Upload-Complete": "?1" if complete else "?0",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    return client.patch(url, content=data, headers=fields)


def offset(client: httpx.Client, url: str) -> int:
    response = client.head(url)
    assert response.status_code == 204
    assert response.headers["cache-control"] == "no-store"
    return int(response.headers["upload-offset"])


def test_in_pieces(service: Served) -> None:
    client, data = service.client, model_bytes(50, 30)
    url = begin(client, data[:10], Content_Disposition='attachment; filename="m.safetensors"')
    assert_problem(client.get(url), 404, "not-found")
    response = patch(client, url, data[10:500], 10)
    assert (response.status_code, response.headers["upload-offset"]) == (204, "500")
    assert offset(client, url) == 500
    response = patch(client, url, data[500:], 500, complete=True)
    assert (response.status_code, response.headers["upload-complete"]) == (200, "?1")
    described = response.json()
    assert described["sha256"] == sha256(data)
    assert described["filename"] == "m.safetensors"
    assert client.get(url).json() == described
    head = client.head(url)
    assert head.headers["upload-complete"] == "?1"
    assert head.headers["upload-offset"] == head.headers["upload-length"] == str(len(data))
    assert len(service.stored()) == 2  # the parts are gone
    assert_problem(patch(client, url, b"x", len(data)), 400, "bad-request")
    body = {"model": described["id"], "threshold": 0.9}
    assert client.post("/v1/jobs", json=body).status_code == 202


def test_complete_at_once(client: httpx.Client) -> None:
    headers = {"Upload-Complete": "?1", "Content-Type": "application/octet-stream"}
    response = client.post("/v1/uploads", content=model_bytes(), headers=headers)
    assert (response.status_code, response.headers["upload-complete"]) == (201, "?1")


def test_an_empty_last_request_completes(client: httpx.Client) -> None:
    url = begin(client, model_bytes())
    assert patch(client, url, b"", len(model_bytes()), complete=True).status_code == 200


def test_a_newer_request_takes_over_from_a_silent_one(service: Served) -> None:
    data = model_bytes(50, 30)
    url = begin(service.client)
    fields = {
        "Content_Type": "application/partial-upload",
        "Content_Length": str(len(data)),
        "Upload_Offset": "0",
        "Upload_Complete": "?1",
    }
    with rawhttp.connect(service) as silent:
        silent.sendall(rawhttp.head("PATCH", url, **fields) + data[:100])
        at = offset(service.client, url)
        while at == 0:  # the first bytes may not have arrived yet
            silent.close()
            at = 100 if patch(service.client, url, data[:100], 0).status_code == 204 else 0
        assert at == 100
        response = patch(service.client, url, data[100:], 100, complete=True)
        if silent.fileno() >= 0:
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += silent.recv(65536)
            assert answer.startswith(b"HTTP/1.1 409 ")
            assert b"\r\nupload-offset: 100\r\n" in answer.lower()
    assert response.json()["sha256"] == sha256(data)


@pytest.mark.parametrize("wrong", [0, 9, 11, 10**12])
def test_a_wrong_offset_is_told_the_true_one(wrong: int, client: httpx.Client) -> None:
    url = begin(client, b"x" * 10)
    response = patch(client, url, b"y", wrong)
    assert_problem(response, 409, "upload-offset-mismatch")
    assert response.headers["upload-offset"] == "10"
    assert offset(client, url) == 10


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({"Upload-Offset": "x"}, 400, "bad-request"),
        ({"Upload-Offset": "-1"}, 400, "bad-request"),
        ({"Upload-Complete": "1"}, 400, "bad-request"),
        ({"Upload-Length": "5000000"}, 413, "payload-too-large"),
        ({"Upload-Length": "7"}, 400, "bad-request"),
        ({"Content-Type": "application/octet-stream"}, 415, "unsupported-media-type"),
        ({"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
    ],
)
def test_bad_headers(headers: dict[str, str], status: int, slug: str, client: httpx.Client) -> None:
    url = begin(client, Upload_Length="100")
    fields = {**PARTIAL, "Upload-Offset": "0", "Upload-Complete": "?0", **headers}
    response = client.patch(url, content=b"x", headers=fields)
    assert_problem(response, status, slug)
    if "Content-Type" in headers:
        assert response.headers["accept-patch"] == "application/partial-upload"
    assert offset(client, url) == 0


def test_patch_without_its_headers(client: httpx.Client) -> None:
    assert_problem(client.patch(begin(client), content=b"x", headers=PARTIAL), 400, "bad-request")


def test_an_unknown_upload(client: httpx.Client) -> None:
    assert client.head("/v1/uploads/unknown").status_code == 404
    assert_problem(patch(client, "/v1/uploads/unknown", b"x", 0), 404, "not-found")


def finish(service: Served, data: bytes, **headers: str) -> httpx.Response:
    url = begin(service.client, data[:5])
    return patch(service.client, url, data[5:], 5, complete=True, **headers)


@pytest.mark.parametrize(
    ("data", "headers", "slug"),
    [
        (b"<html>no model</html>", {}, "unsupported-format"),
        (model_bytes()[:-1], {}, "corrupt-file"),
        (model_bytes(), {"Repr_Digest": "sha-256=:" + "A" * 43 + "=:"}, "digest-mismatch"),
    ],
)
def test_a_file_that_is_refused_leaves_nothing(
    data: bytes, headers: dict[str, str], slug: str, service: Served
) -> None:
    assert_problem(finish(service, data, **headers), 422, slug)
    assert service.stored() == []


def test_too_large_in_sum_leaves_nothing(service: Served) -> None:
    url = begin(service.client, b"x" * 600_000)
    assert_problem(patch(service.client, url, b"x" * 600_000, 600_000), 413, "payload-too-large")
    assert service.stored() == []


def test_more_than_was_declared_leaves_nothing(service: Served) -> None:
    url = begin(service.client, Upload_Length="10")
    assert_problem(patch(service.client, url, b"x" * 11, 0), 413, "payload-too-large")
    assert service.stored() == []


def test_less_than_was_declared_can_go_on(client: httpx.Client) -> None:
    data = model_bytes()
    url = begin(client, Upload_Length=str(len(data)))
    assert_problem(patch(client, url, data[:10], 0, complete=True), 400, "bad-request")
    assert patch(client, url, data[10:], 10, complete=True).status_code == 200


def digest_of(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def test_a_damaged_part_is_taken_back(client: httpx.Client) -> None:
    data = model_bytes()
    url = begin(client, Repr_Digest=digest_of(data))
    damaged = bytes([data[0] ^ 1]) + data[1:50]
    response = patch(client, url, damaged, 0, Content_Digest=digest_of(data[:50]))
    assert_problem(response, 422, "digest-mismatch")
    assert offset(client, url) == 0
    good = patch(client, url, data[:50], 0, Content_Digest=digest_of(data[:50]))
    assert good.status_code == 204
    assert patch(client, url, data[50:], 50, complete=True).status_code == 200


def test_the_digest_announced_at_the_beginning_is_checked_at_the_end(service: Served) -> None:
    data = model_bytes()
    url = begin(service.client, Repr_Digest=digest_of(data + b"x"))
    assert_problem(patch(service.client, url, data, 0, complete=True), 422, "digest-mismatch")
    assert service.stored() == []


def test_delete_ends_it(service: Served) -> None:
    url = begin(service.client, b"x" * 10)
    assert service.client.delete(url).status_code == 204
    assert service.client.head(url).status_code == 404
    assert service.stored() == []


def test_segments_are_put_together(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long request is stored in segments, so that a crash loses the last one at most."""
    monkeypatch.setattr("app.resumable.SEGMENT_BYTES", 1000)
    data = model_bytes(100, 100)
    url = begin(service.client)
    pieces: Any = iter([data[i : i + 300] for i in range(0, 20_000, 300)])
    fields = {**PARTIAL, "Upload-Offset": "0", "Upload-Complete": "?0"}
    response = service.client.patch(url, content=pieces, headers=fields)
    at = int(response.headers["upload-offset"])
    store = Store(service.settings.store_url)
    assert len(list(store.list("uploads"))) > 10
    assert patch(service.client, url, data[at:], at, complete=True).json()["sha256"] == sha256(data)


def test_too_many_at_once(migrated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(migrated, tmp_path / "limited")
    with served(small(folder, max_partial_uploads=2)) as running:
        urls = [begin(running.client) for _ in range(2)]
        headers = {"Upload-Complete": "?0"}
        response = running.client.post("/v1/uploads", headers=headers)
        assert_problem(response, 429, "too-many-requests")
        running.client.delete(urls[0])
        begin(running.client)


def test_an_abandoned_one_is_swept(migrated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(migrated, tmp_path / "impatient")
    with served(small(folder, partial_upload_hours=1e-9)) as running:
        old = begin(running.client, b"x" * 10)
        begin(running.client)
        assert running.client.head(old).status_code == 404
