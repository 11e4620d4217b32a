"""Fixtures: databases, running services, the example model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.cases.tools import Caller
from tests.end_to_end.databases import fresh_database
from tests.end_to_end.processes import ROOT, Service, running

EXAMPLE = ROOT / "examples" / "fashion_mnist"
POSTGRES = "RANKPRESS_TEST_POSTGRES_URL"


@pytest.fixture(scope="session")
def example_model() -> Path:
    return EXAMPLE / "model.safetensors"


@pytest.fixture(scope="session")
def example_validation() -> Path:
    return EXAMPLE / "validation.safetensors"


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A fresh database on the server named by the environment, dropped afterwards."""
    server = os.environ.get(POSTGRES)
    if not server:
        pytest.skip(f"no PostgreSQL server: set {POSTGRES} to run this test")
    with fresh_database(server) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """API and one worker, on SQLite and on PostgreSQL."""
    settings = {}
    if request.param == "postgres":
        settings["database_url"] = request.getfixturevalue("postgres_url")
    with running(tmp_path, **settings) as service:
        yield service


@pytest.fixture(scope="session")
def sqlite_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """API and one worker on SQLite, shared by tests that break nothing: a start takes seconds."""
    with running(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="module")
def caller(sqlite_service: Service) -> Iterator[Caller]:
    """Bare HTTP requests to the module's service."""
    found = Caller(sqlite_service.url)
    yield found
    found.http.close()


@pytest.fixture
def nothing_left(sqlite_service: Service) -> Iterator[None]:
    """The test leaves no file in the store and the API alive."""
    before = sqlite_service.stored()
    yield
    assert sqlite_service.stored() == before
    assert sqlite_service.api is not None
    assert sqlite_service.api.poll() is None
