"""The application as a whole: its imports, its document, its headers, its last net."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.export import text
from app.main import create_app
from rankpress.errors import Unavailable
from rankpress.service.settings import Settings
from tests.app.appkit import assert_problem
from tests.app.conftest import Served, served

BLOCKED = ("torch", "numpy", "scipy", "torchmetrics", "worker")
IMPORTS = f"""
import sys
from pathlib import Path
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
import app.main, app.__main__
from rankpress.service.settings import Settings
app.main.create_app(Settings()).openapi()
print(sorted(m for m in {BLOCKED} if m in sys.modules))
"""


def test_torch_is_never_needed() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr


def document(settings: Settings) -> dict[str, Any]:
    return create_app(settings).openapi()


def operations(settings: Settings) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document(settings)["paths"].items()
        for method, operation in methods.items()
    ]


def test_operation_ids_are_unique_and_documented(settings: Settings) -> None:
    found = operations(settings)
    ids = [operation["operationId"] for _, _, operation in found]
    assert len(set(ids)) == len(ids)
    assert all(operation["tags"] and operation["summary"] for _, _, operation in found)


def test_every_documented_error_is_a_problem(settings: Settings) -> None:
    for path, _, operation in operations(settings):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"], (path, status)


def test_every_reference_of_the_document_leads_somewhere(settings: Settings) -> None:
    text = json.dumps(document(settings))
    schemas = document(settings)["components"]["schemas"]
    names = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= set(schemas)
    assert schemas["JobRequest"]["required"] == ["model"]


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/openapi.json", "/v1/jobs"])
def test_headers_of_every_answer(path: str, shared: Served) -> None:
    response = shared.client.get(path)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert len(response.headers["x-request-id"]) == 32
    assert "access-control-allow-origin" not in response.headers


def test_the_request_id_is_echoed_when_harmless(shared: Served) -> None:
    def sent(value: str) -> str:
        response = shared.client.get("/healthz", headers={"X-Request-Id": value})
        return response.headers["x-request-id"]

    assert sent("abc-1.2_3") == "abc-1.2_3"
    assert sent('"}{"level":"x') != '"}{"level":"x'
    assert sent("x" * 129) != "x" * 129


@pytest.mark.parametrize("path", ["/healthz", "/v1/jobs", "/openapi.json"])
def test_head_wherever_there_is_get(path: str, shared: Served) -> None:
    head, got = shared.client.head(path), shared.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


def test_readiness_says_when_the_store_or_the_database_is_away(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.client.get("/readyz").status_code == 200
    for part in ("store.Store", "engine.Engine"):
        with monkeypatch.context() as patch:

            def away(self: object) -> None:
                raise Unavailable("away")

            patch.setattr(f"rankpress.service.{part}.check", away)
            assert_problem(service.client.get("/readyz"), 503, "unavailable")
            assert service.client.get("/healthz").status_code == 200


def test_an_unforeseen_error_is_a_problem_without_its_text(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, tenant: str, job_id: str) -> None:
        raise RuntimeError("secret /srv/path")

    monkeypatch.setattr("rankpress.service.engine.Engine.get", broken)
    with served(settings) as running:
        response = running.client.get("/v1/jobs/abc")
    assert_problem(response, 500, "internal-error")
    assert "secret" not in response.text
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    logged = [line for line in lines if line["event"] == "unhandled exception"]
    assert logged[0]["request_id"] == response.headers["x-request-id"]
    assert "secret /srv/path" in logged[0]["exception"]


@pytest.mark.usefixtures("logs_info")
def test_keys_and_bodies_are_not_logged(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    headers = {"Authorization": "Bearer top-secret-key", "Idempotency-Key": "bad key"}
    with served(settings) as running:
        running.client.post("/v1/jobs?token=top-secret-query", json={"a": "b"}, headers=headers)
    out = capsys.readouterr().out
    assert '"path": "/v1/jobs"' in out
    assert "top-secret" not in out


def test_nothing_is_opened_before_the_lifespan(settings: Settings) -> None:
    app = create_app(settings)
    assert isinstance(app, FastAPI)
    assert not (settings.data_dir / "store").exists()


def test_cors_is_off(shared: Served) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = httpx.options(f"{shared.client.base_url}/v1/jobs", headers=headers)
    assert response.status_code == 405
    assert "access-control-allow-origin" not in response.headers


def test_the_document_in_the_repository_is_the_service_s() -> None:
    """After a wanted change: python -m app.export docs/openapi.json"""
    kept = Path(__file__).parents[2] / "docs" / "openapi.json"
    assert kept.read_text(encoding="utf-8") == text()
