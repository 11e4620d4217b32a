from __future__ import annotations

from typing import Any

from tests.rankpress.client.fakeservice import running
from tests.rankpress.reporting import samples


def test_spectrum(drive: Any) -> None:
    with running(lambda reply, _seen: reply.send_model(samples.spectrum())) as service:
        assert drive(service.url, lambda c: c.spectrum("j/1")) == samples.spectrum()
    assert service.seen[0].path == "/v1/jobs/j%2F1/spectrum"
