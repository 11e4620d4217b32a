"""The application on an embedded database and a local store, without a worker: jobs stay queued."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import structlog

from rankpress.service.engine import migrate
from rankpress.service.localfiles import below
from rankpress.service.settings import Settings
from tests.app.liveserver import serving


class Served(NamedTuple):
    """A running service and its folder."""

    client: httpx.Client
    settings: Settings

    def stored(self) -> list[str]:
        """Every file in the store."""
        root = self.settings.data_dir / "store"
        return sorted(str(path.relative_to(root)) for path in below(root))


@contextmanager
def served(settings: Settings) -> Iterator[Served]:
    with serving(settings) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        yield Served(http, settings)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database, to be copied."""
    folder = tmp_path_factory.mktemp("migrated")
    migrate(Settings(data_dir=folder))
    return folder


def small(folder: Path, **fields: Any) -> Settings:
    """Small limits, so that crossing them is cheap."""
    return Settings(
        data_dir=folder,
        max_upload_bytes=1_000_000,
        max_json_bytes=20_000,
        max_open_jobs=3,
        max_requests_per_second=0,
        **fields,
    )


@pytest.fixture
def settings(migrated: Path, tmp_path: Path) -> Settings:
    return small(Path(shutil.copytree(migrated, tmp_path / "data")))


@pytest.fixture
def service(settings: Settings) -> Iterator[Served]:
    with served(settings) as running:
        yield running


@pytest.fixture
def client(service: Served) -> httpx.Client:
    return service.client


@pytest.fixture(scope="module")
def shared(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One service for the tests of a module that leave nothing behind."""
    folder = tmp_path_factory.mktemp("shared") / "data"
    shutil.copytree(migrated, folder)
    with served(small(folder)) as running:
        yield running


@pytest.fixture(autouse=True)
def _plain_logs(request: pytest.FixtureRequest) -> Iterator[None]:
    """One line an event, as the entry point sets it up. Errors alone,
    unless the test asks for `logs_info`."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.INFO if "logs_info" in request.fixturenames else logging.ERROR
        ),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    yield
    structlog.reset_defaults()


@pytest.fixture
def logs_info() -> None:
    """Asked for by a test that looks at the log of a request."""
