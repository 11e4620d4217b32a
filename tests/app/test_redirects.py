"""Weights by a signed URL: when the operator has chosen so, and the store can sign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from obstore.store import S3Store

from rankpress.service.settings import Settings
from rankpress.service.store import Store
from tests.app.appkit import assert_problem, sha256, submit
from tests.app.conftest import Served, served
from tests.app.jobrows import succeed

DATA = bytes(range(256)) * 10


class Signing(Store):
    """A local store that signs as S3 does. What a real one makes of the URL is tested against a
    real one."""

    def signed_url(self, key: str, seconds: int) -> str | None:
        signing = Store.__new__(Store)
        signing._store = S3Store(
            "bucket",
            prefix="some/where",
            endpoint="https://s3.example",
            region="us-east-1",
            access_key_id="AKIDEXAMPLE",
            secret_access_key="hidden",
        )
        return signing.signed_url(key, seconds)


@pytest.fixture
def redirecting(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr("app.main.Store", Signing)
    chosen = {"redirect_downloads": True, "redirect_seconds": 77}
    with served(settings.model_copy(update=chosen)) as running:
        yield running


def weights_of(service: Served) -> str:
    job = submit(service.client)
    succeed(service.settings, job["id"], DATA)
    return f"/v1/jobs/{job['id']}/weights"


def test_a_download_goes_to_the_store(redirecting: Served) -> None:
    path = weights_of(redirecting)
    answer = redirecting.client.get(path)
    assert answer.status_code == 307
    assert answer.content == b""
    assert answer.headers["cache-control"] == "no-store"
    location = urlsplit(answer.headers["location"])
    job = path.split("/")[3]
    assert location.path.endswith(f"/some/where/jobs/default/{job}/weights")
    query = parse_qs(location.query)
    assert query["X-Amz-Expires"] == ["77"]
    assert "X-Amz-Signature" in query
    assert "hidden" not in answer.headers["location"]
    ranged = redirecting.client.get(path, headers={"Range": "bytes=5-"})
    assert ranged.status_code == 307


@pytest.mark.parametrize("field", ["If-Range", "Want-Repr-Digest"])
def test_what_the_store_cannot_answer_is_answered_here(field: str, redirecting: Served) -> None:
    value = {"If-Range": f'"{sha256(DATA)}"', "Want-Repr-Digest": "sha-256=1"}[field]
    headers = {field: value, "Range": "bytes=5-"}
    answer = redirecting.client.get(weights_of(redirecting), headers=headers)
    assert answer.status_code == 206
    assert answer.content == DATA[5:]
    assert "repr-digest" in answer.headers


def test_preconditions_come_first(redirecting: Served) -> None:
    path, etag = weights_of(redirecting), f'"{sha256(DATA)}"'
    get = redirecting.client.get
    assert get(path, headers={"If-None-Match": etag}).status_code == 304
    assert_problem(get(path, headers={"If-Match": '"other"'}), 412, "precondition-failed")
    assert get(path, headers={"If-Match": etag}).status_code == 307
    assert_problem(get("/v1/jobs/none/weights"), 404, "not-found")


def test_head_tells_size_and_digest(redirecting: Served) -> None:
    answer = redirecting.client.head(weights_of(redirecting))
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["etag"] == f'"{sha256(DATA)}"'


def test_the_client_gets_verified_bytes(redirecting: Served, tmp_path: Path) -> None:
    from rankpress import Client

    job = weights_of(redirecting).split("/")[3]
    with Client(str(redirecting.client.base_url)) as client:
        assert client.download(job, tmp_path / "out").read_bytes() == DATA


def test_a_local_store_sends_the_bytes_itself(settings: Settings) -> None:
    with served(settings.model_copy(update={"redirect_downloads": True})) as running:
        assert running.client.get(weights_of(running)).content == DATA


def test_no_redirect_unless_chosen(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.main.Store", Signing)
    with served(settings) as running:
        assert running.client.get(weights_of(running)).status_code == 200
