"""Latency is measured, and not judged, by these tests: few repeats are enough."""

import pytest

from worker.evaluation import latency


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SECONDS", 0.01)
