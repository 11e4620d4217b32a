from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.end_to_end.processes import ROOT, Service, running
from tests.page.browser import Watched, chromium

EXAMPLE = ROOT / "examples" / "fashion_mnist"


# Of a module and no longer: while it is open, Playwright keeps an event loop running in this
# thread, and every later test that runs one of its own would fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def live(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """API and a worker as real processes."""
    with running(tmp_path_factory.mktemp("page")) as service:
        yield service


@pytest.fixture
def watched(browser: Browser, live: Service) -> Iterator[Watched]:
    """A fresh page, open. Whatever it complains about fails the test, unless the test takes it
    out of `complaints`."""
    found = Watched(browser, viewport={"width": 1180, "height": 900})
    found.page.goto(live.url)
    yield found
    found.context.close()
    assert found.complaints == []


@pytest.fixture(scope="session")
def model() -> Path:
    return EXAMPLE / "model.safetensors"


@pytest.fixture(scope="session")
def validation() -> Path:
    return EXAMPLE / "validation.safetensors"
