"""Keys, tenants and roles, over HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from app.auth import check_binding, is_loopback
from app.rates import RateLimit
from rankpress.cli.app import app as cli
from rankpress.errors import TooManyRequests
from rankpress.service import api_keys
from rankpress.service.api_keys import Role
from rankpress.service.settings import Settings
from rankpress.service.store import Store
from tests.app.appkit import OCTETS, assert_problem, model_bytes, submit, upload
from tests.app.conftest import Served, served, small
from tests.app.jobrows import succeed


class Keyed:
    """A service with keys, and a client for each."""

    def __init__(self, running: Served, store: Store) -> None:
        self.running = running
        self.store = store
        self.tokens: dict[str, str] = {}

    def client(self, tenant: str, role: Role = Role.SUBMIT) -> httpx.Client:
        token, _ = api_keys.create(self.store, tenant=tenant, role=role)
        return self.with_token(token)

    def with_token(self, token: str | None) -> httpx.Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = self.running.client.base_url
        return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)


@pytest.fixture
def keyed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keyed]:
    monkeypatch.setattr("app.auth.REMEMBERED_SECONDS", 0.0)
    store = Store(settings.store_url)
    api_keys.create(store, tenant="first", role=Role.ADMIN)
    with served(settings) as running:
        yield Keyed(running, store)


ROUTES = [
    ("POST", "/v1/uploads"),
    ("GET", "/v1/uploads/{upload}"),
    ("HEAD", "/v1/uploads/{upload}"),
    ("PATCH", "/v1/uploads/{upload}"),
    ("DELETE", "/v1/uploads/{upload}"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{job}"),
    ("DELETE", "/v1/jobs/{job}"),
    ("POST", "/v1/jobs/{job}/cancel"),
    ("GET", "/v1/jobs/{job}/events"),
    ("GET", "/v1/jobs/{job}/deliveries"),
    ("GET", "/v1/jobs/{job}/report"),
    ("GET", "/v1/jobs/{job}/spectrum"),
    ("GET", "/v1/jobs/{job}/frontier"),
    ("GET", "/v1/jobs/{job}/weights"),
    ("HEAD", "/v1/jobs/{job}/weights"),
]


def test_the_routes_here_are_all_there_are(shared: Served) -> None:
    paths = shared.client.get("/openapi.json").json()["paths"]
    found = {
        (method.upper(), path.replace("job_id", "job").replace("upload_id", "upload"))
        for path, methods in paths.items()
        if path.startswith("/v1/")
        for method in methods
    }
    assert found == set(ROUTES)


@pytest.mark.parametrize("token", [None, "x", "rp_" + "0" * 16 + "_" + "A" * 43])
def test_no_route_without_a_key(token: str | None, keyed: Keyed) -> None:
    with keyed.with_token(token) as client:
        for method, path in ROUTES:
            response = client.request(method, path.format(job="j", upload="u"))
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"].startswith("Bearer")
            if method != "HEAD":
                assert_problem(response, 401, "unauthorized")
        assert client.get("/healthz").status_code == 200


def test_another_tenant_gets_404_everywhere(keyed: Keyed) -> None:
    with keyed.client("alice") as alice, keyed.client("bob") as bob:
        job = submit(alice)
        names = {"job": job["id"], "upload": job["request"]["model"]}
        for method, path in ROUTES:
            if "{" not in path:
                continue
            headers = (
                {
                    "Content-Type": "application/partial-upload",
                    "Upload-Offset": "0",
                    "Upload-Complete": "?0",
                }
                if method == "PATCH"
                else {}
            )
            response = bob.request(method, path.format(**names), headers=headers)
            assert response.status_code == 404, (method, path, response.text)
        assert bob.get("/v1/jobs").json()["items"] == []
        body = {"model": names["upload"], "threshold": 0.5}
        assert_problem(bob.post("/v1/jobs", json=body), 422, "invalid-request", "/model")
        assert alice.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"


def test_the_same_idempotency_key_of_two_tenants_is_two_jobs(keyed: Keyed) -> None:
    with keyed.client("alice") as alice, keyed.client("bob") as bob:
        ids = {
            client.post(
                "/v1/jobs",
                json={"model": upload(client), "threshold": 0.9},
                headers={"Idempotency-Key": "k"},
            ).json()["id"]
            for client in (alice, bob)
        }
        assert len(ids) == 2


def test_roles(keyed: Keyed) -> None:
    with keyed.client("alice") as alice, keyed.client("alice", Role.READ) as reader:
        job = submit(alice)
        assert reader.get(f"/v1/jobs/{job['id']}").status_code == 200
        for method, path in ROUTES:
            if method in ("POST", "PATCH", "DELETE"):
                url = path.format(job=job["id"], upload=job["request"]["model"])
                assert_problem(reader.request(method, url), 403, "forbidden")
        assert alice.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"


def test_a_revoked_key_ends_and_does_not_open_the_service(keyed: Keyed) -> None:
    with keyed.client("alice") as alice:
        assert alice.get("/v1/jobs").status_code == 200
        for key in api_keys.every(keyed.store):
            api_keys.revoke(keyed.store, key.id)
        assert_problem(alice.get("/v1/jobs"), 401, "unauthorized")
    with keyed.with_token(None) as anyone:
        assert_problem(anyone.get("/v1/jobs"), 401, "unauthorized")


@pytest.mark.usefixtures("logs_info")
def test_a_key_is_in_no_record_answer_or_log(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(settings.store_url)
    token, record = api_keys.create(store, tenant="alice", role=Role.READ)
    secret = token.split("_", 2)[2]
    with served(settings) as running:
        headers = {"Authorization": f"Bearer {token}x"}
        answer = running.client.get("/v1/jobs", headers=headers)
        good = running.client.get("/v1/jobs", headers={"Authorization": f"bearer {token}"})
    assert (answer.status_code, good.status_code) == (401, 200)
    stored = (settings.data_dir / "store" / "api-keys" / f"{record.id}.json").read_text()
    assert secret not in answer.text + good.text + capsys.readouterr().out + stored


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Host": "evil.example"},
    {"Host": "evil.example", "Origin": "http://evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_without_keys_a_web_page_elsewhere_is_refused(
    headers: dict[str, str], shared: Served
) -> None:
    response = shared.client.post(
        "/v1/jobs", files={"model": ("m", model_bytes())}, headers=headers
    )
    assert_problem(response, 403, "forbidden")
    assert shared.client.get("/v1/jobs", headers=headers).status_code == 403


def test_without_keys_its_own_page_is_served(shared: Served) -> None:
    headers = {"Origin": str(shared.client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert shared.client.get("/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("fields", "fine"),
    [
        ({"host": "127.0.0.1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "192.0.2.1"}, False),
        ({"host": "0.0.0.0", "open_access": True}, True),
    ],
)
def test_without_keys_only_loopback_is_bound(
    fields: dict[str, Any], fine: bool, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, **fields)
    store = Store(settings.store_url)
    if fine:
        check_binding(settings, store)
    else:
        with pytest.raises(ValueError, match="no API key exists"):
            check_binding(settings, store)
        api_keys.create(store, tenant="a", role=Role.READ)
        check_binding(settings, store)


def test_loopback_names() -> None:
    assert is_loopback("127.8.9.1")
    assert not is_loopback("127.0.0.1.evil.example")
    assert not is_loopback("")


def test_the_command_makes_lists_and_revokes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKPRESS_DATA_DIR", str(tmp_path))
    run = CliRunner()
    made = run.invoke(cli, ["keys", "create", "--tenant", "alice", "--role", "read"])
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    key_id, secret = api_keys.split(token) or ("", "")
    store = Store(Settings().store_url)
    assert api_keys.matches(api_keys.find(store, key_id), secret)
    listed = run.invoke(cli, ["keys", "list"]).stdout
    assert key_id in listed
    assert "active" in listed
    assert secret not in listed
    assert run.invoke(cli, ["keys", "revoke", key_id]).exit_code == 0
    assert not api_keys.matches(api_keys.find(store, key_id), secret)
    assert "revoked" in run.invoke(cli, ["keys", "list"]).stdout
    assert run.invoke(cli, ["keys", "revoke", "0" * 16]).exit_code == 2
    assert run.invoke(cli, ["keys", "create", "--role", "root"]).exit_code == 2
    assert run.invoke(cli, ["keys", "create", "--tenant", "../x"]).exit_code == 2


def test_requests_a_second() -> None:
    now = [0.0]
    limit = RateLimit(2, clock=lambda: now[0])
    for _ in range(4):
        limit.take("alice")
    with pytest.raises(TooManyRequests) as caught:
        limit.take("alice")
    assert caught.value.headers["Retry-After"] == "1"
    limit.take("bob")
    now[0] = 0.5
    limit.take("alice")
    with pytest.raises(TooManyRequests):
        limit.take("alice")


def test_requests_a_second_over_http(migrated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(migrated, tmp_path / "rated")
    settings = Settings(data_dir=folder, max_requests_per_second=1)
    with served(settings) as running:
        answers = [running.client.get("/v1/jobs") for _ in range(10)]
        assert answers[0].status_code == 200
        assert_problem(answers[-1], 429, "too-many-requests")
        assert running.client.get("/healthz").status_code == 200


def test_stored_bytes_of_a_caller(migrated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(migrated, tmp_path / "quota"))
    data = model_bytes(10, 10)
    with served(small(folder, max_stored_bytes=len(data) + 600)) as running:
        first = upload(running.client, data)
        response = running.client.post("/v1/uploads", content=data, headers=OCTETS)
        assert "stored already" in assert_problem(response, 413, "payload-too-large")["detail"]
        response = running.client.post("/v1/jobs", files={"model": ("m", data)})
        assert_problem(response, 413, "payload-too-large")
        running.client.delete(f"/v1/uploads/{first}")
        upload(running.client, data)
        job = running.client.get("/v1/jobs").json()["items"]
        assert job == []


def test_results_count_as_stored(migrated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(migrated, tmp_path / "results"))
    with served(small(folder, max_stored_bytes=5000)) as running:
        job = submit(running.client)
        succeed(running.settings, job["id"], b"x" * 5000, json.dumps({}).encode())
        response = running.client.post("/v1/uploads", content=model_bytes(), headers=OCTETS)
        assert "5000" in assert_problem(response, 413, "payload-too-large")["detail"]
