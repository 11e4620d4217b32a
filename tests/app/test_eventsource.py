"""A browser's own EventSource: what it hears, that it comes back by itself, and that it ends."""

from __future__ import annotations

from tests.app.appkit import submit
from tests.app.conftest import Served
from tests.app.jobrows import record_step, set_state
from tests.app.test_events import layer
from tests.page.browser import Watched, chromium

LISTEN = """(path) => {
    window.heard = [];
    window.broken = 0;
    window.source = new EventSource(path);
    for (const name of ["state", "layer", "evaluation", "done"])
        source.addEventListener(name, (e) => heard.push([name, JSON.parse(e.data), e.lastEventId]));
    source.onerror = () => { window.broken += 1; };
}"""


def test_eventsource_hears_a_job_to_its_end(service: Served) -> None:
    job = submit(service.client)
    with chromium() as browser:
        watched = Watched(browser)
        page = watched.page
        page.goto(f"{service.client.base_url}/healthz")  # same origin, and nothing else going on
        page.evaluate(LISTEN, f"/v1/jobs/{job['id']}/events")
        page.wait_for_function("heard.length === 1")
        for step, name in ((1, "a.weight"), (2, "b.weight")):
            record_step(service.settings, job["id"], step, "factorise", {"layers": [layer(name)]})
            page.wait_for_function(f"heard.length === {step + 1}")
        set_state(service.settings, job["id"], "CANCELLED")
        # The stream ends; the browser comes back with the last id, and is told that that is all.
        page.wait_for_function("source.readyState === EventSource.CLOSED")
        heard = page.evaluate("heard")
        assert page.evaluate("broken") == 2
        asked = [url for url in watched.requests if url.endswith("/events")]
        watched.context.close()
    assert [(name, last) for name, _, last in heard] == [
        ("state", ""),
        ("layer", "1-0"),
        ("layer", "2-0"),
        ("state", "2-0"),
        ("done", "end"),
    ]
    assert [data["name"] for name, data, _ in heard if name == "layer"] == ["a.weight", "b.weight"]
    assert heard[-1][1]["state"] == "canceled"
    assert len(asked) == 2
