"""The whole service on an S3 server: uploads, jobs and downloads by URL alone.

A real server, one Ceph node from Debian, where its programs are installed. In front of it a
proxy that can be told to be slow, or to answer 500.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import obstore
import pytest
import torch
from obstore.store import S3Store
from safetensors.torch import save_file

from rankpress import Client
from rankpress.names import Stage, State
from rankpress.schemas.job import Job
from rankpress.service.store import Missing, Store
from tests.end_to_end import s3server
from tests.end_to_end.faultyproxy import FaultyProxy
from tests.end_to_end.processes import Service, wait_until

MIB = 1024**2
BUCKET = "rankpress"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(s3server.missing_programs()),
        reason="no S3 server: Debian's ceph-mon ceph-osd radosgw ceph-common are not installed",
    ),
]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3server.S3]:
    with s3server.running(tmp_path_factory.mktemp("s3")) as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture
def proxy(s3: s3server.S3) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def service(
    s3: s3server.S3, proxy: FaultyProxy, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """A test may give further settings by indirect parameters."""
    url, more = f"s3://{BUCKET}/{tmp_path.name}", getattr(request, "param", {})
    running = Service(tmp_path, store_url=url, step_seconds="0.2", **more)
    running.environment |= s3._replace(endpoint=proxy.url).environment()
    try:
        running.start_api()
        running.start_worker()
        yield running
    finally:
        running.stop()


@pytest.fixture
def store(s3: s3server.S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for an upload in several parts."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file({f"{i}.weight": torch.randn(1000, 800, generator=generator) for i in range(8)}, path)
    return path


def submit(client: Client, model: Path) -> Job:
    return client.submit(
        model=client.upload(model).id, threshold=0.3, rule="ratio", protect_output=False
    )


def test_upload_to_download(service: Service, store: Store, model: Path, tmp_path: Path) -> None:
    with Client(service.url) as client:
        upload = client.upload(model)
        assert upload.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
        job = client.wait(
            client.submit(model=upload.id, threshold=0.3, rule="ratio", protect_output=False).id,
            timeout=200,
        )
        path = tmp_path / "small.safetensors"
        client.download(job.id, path)
        report = client.report(job.id)
    whole = path.read_bytes()
    assert hashlib.sha256(whole).hexdigest() == report.output_sha256
    url = f"{service.url}/v1/jobs/{job.id}/weights"
    for first, last in ((0, 0), (5, 9), (3 * MIB, 3 * MIB + 99), (len(whole) - 7, len(whole) - 1)):
        part = httpx.get(url, headers={"Range": f"bytes={first}-{last}"}, trust_env=False)
        assert part.status_code == 206
        assert part.content == whole[first : last + 1]
    suffix = httpx.get(url, headers={"Range": "bytes=-10"}, trust_env=False)
    assert suffix.content == whole[-10:]
    assert not [info.key for info in store.list("jobs") if "/parts/" in info.key]
    assert not (service.settings.data_dir / "store").exists()


def finished(service: Service, model: Path) -> tuple[str, str]:
    """The URL of a job's weights, and their SHA-256."""
    with Client(service.url) as client:
        job = client.wait(submit(client, model).id, timeout=200)
        return f"{service.url}/v1/jobs/{job.id}/weights", client.report(job.id).output_sha256


def get(url: str, **headers: str) -> httpx.Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(url, headers=fields, timeout=60, trust_env=False)


def test_conditional_downloads(service: Service, model: Path) -> None:
    url, sha256 = finished(service, model)
    etag, whole = f'"{sha256}"', get(url)
    assert whole.status_code == 200
    assert whole.headers["etag"] == etag
    assert hashlib.sha256(whole.content).hexdigest() == sha256
    same = get(url, If_None_Match=etag)
    assert (same.status_code, same.content) == (304, b"")
    assert get(url, If_None_Match='"other"').content == whole.content
    assert get(url, If_Match='"other"').status_code == 412
    part = get(url, Range="bytes=7-99", If_Range=etag)
    assert (part.status_code, part.content) == (206, whole.content[7:100])
    assert part.headers["content-range"] == f"bytes 7-99/{len(whole.content)}"
    changed = get(url, Range="bytes=7-99", If_Range='"other"')
    assert (changed.status_code, changed.content) == (200, whole.content)
    beyond = get(url, Range=f"bytes={len(whole.content)}-")
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"


@pytest.mark.parametrize("service", [{"redirect_downloads": "true"}], indirect=True)
def test_redirect_to_a_signed_url(
    service: Service, proxy: FaultyProxy, model: Path, tmp_path: Path
) -> None:
    """What the store makes of the URL: a plain GET, without a key, brings the bytes."""
    url, sha256 = finished(service, model)
    answer = get(url)
    assert (answer.status_code, answer.content) == (307, b"")
    location = answer.headers["location"]
    assert location.startswith(proxy.url)
    plain = get(location)
    assert plain.status_code == 200
    assert hashlib.sha256(plain.content).hexdigest() == sha256
    part = get(location, Range="bytes=7-99")
    assert (part.status_code, part.content) == (206, plain.content[7:100])
    assert get(location.partition("?")[0]).status_code == 403  # it is the signature that opens it
    assert get(location.replace("/weights?", "/report.json?")).status_code == 403
    assert get(url, If_None_Match=f'"{sha256}"').status_code == 304
    here = get(url, Range="bytes=7-99", If_Range=f'"{sha256}"')  # the store knows another ETag
    assert (here.status_code, here.content) == (206, plain.content[7:100])
    with Client(service.url) as client:
        client.download(url.split("/")[-2], tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == plain.content


def test_the_worker_dies_and_another_goes_on(service: Service, model: Path) -> None:
    with Client(service.url) as client:
        job = submit(client, model)

        def middle() -> bool:
            found = client.get(job.id)
            assert not found.state.terminal
            return found.stage is Stage.FACTORISE and found.progress.done >= 1

        wait_until(middle, what="the middle", seconds=120)
        service.kill_worker("worker-1")
        service.start_worker("worker-2")
        assert client.wait(job.id, timeout=200).state is State.SUCCEEDED


def test_a_store_that_answers_500_for_a_while(
    service: Service, proxy: FaultyProxy, model: Path
) -> None:
    """Whatever is under way is tried again; nothing is lost and the caller need not know."""
    with Client(service.url) as client:
        job = submit(client, model)
        wait_until(lambda: client.get(job.id).state is State.RUNNING, what="the start", seconds=120)
        proxy.failing = 15
        assert client.wait(job.id, timeout=300).state is State.SUCCEEDED
        assert proxy.failing == 0, "the store was never asked"


def test_a_store_that_is_away(service: Service, proxy: FaultyProxy) -> None:
    """Readiness says so, and an upload is answered 503, with nothing left behind."""
    proxy.failing = 10_000_000
    answer = httpx.get(f"{service.url}/readyz", timeout=300, trust_env=False)
    assert answer.status_code == 503
    assert answer.json()["type"].endswith(":unavailable")
    proxy.failing = 0
    assert httpx.get(f"{service.url}/readyz", timeout=60, trust_env=False).status_code == 200


def test_a_slow_store(service: Service, proxy: FaultyProxy, model: Path) -> None:
    proxy.delay_seconds = 0.3
    with Client(service.url, timeout=120) as client:
        assert client.wait(submit(client, model).id, timeout=300).state is State.SUCCEEDED


def test_a_put_that_fails_midway_leaves_nothing(store: Store) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * MIB
        raise RuntimeError("the caller went away")

    with pytest.raises(RuntimeError, match="went away"):
        asyncio.run(store.put_stream("a/b", pieces()))
    with pytest.raises(Missing):
        store.info("a/b")
    assert list(store.list("a")) == []


def test_reads_and_writes(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * 50_000  # 12.8 MB: two parts
    (tmp_path / "in").write_bytes(data)
    store.put_file("d/whole", tmp_path / "in")
    assert store.fetch("d/whole", tmp_path / "out").read_bytes() == data
    with store.open("d/whole") as file:
        file.seek(-5, 2)
        assert file.read() == data[-5:]
    store.delete_prefix("d")
    assert list(store.list("d")) == []
    store.delete("d/whole")  # absent: no error


def test_wrong_keys_are_told_at_once(s3: s3server.S3) -> None:
    wrong = S3Store(
        BUCKET,
        endpoint=s3.endpoint,
        access_key_id=s3.access_key,
        secret_access_key="wrong",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    with pytest.raises(obstore.exceptions.BaseError):
        obstore.put(wrong, "x", b"x")
