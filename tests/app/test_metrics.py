"""What the API says of itself."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from rankpress.service import api_keys
from rankpress.service.api_keys import Role
from rankpress.service.settings import Settings
from rankpress.service.store import Store
from tests.app.appkit import assert_problem, model_bytes, submit
from tests.app.conftest import Served, served


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    text = client.get("/metrics").text
    return {
        (sample.name, *(sample.labels[k] for k in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_by_the_route_s_template(service: Served) -> None:
    client = service.client
    job = submit(client)
    for _ in range(3):
        client.get(f"/v1/jobs/{job['id']}")
    client.head(f"/v1/jobs/{job['id']}")
    client.get("/v1/jobs/unknown")
    client.get("/no/such/path")
    found = samples(client)
    requests = "rankpress_http_requests_total"
    assert found[requests, "GET", "/v1/jobs/{job_id}", "200"] == 3
    assert found[requests, "HEAD", "/v1/jobs/{job_id}", "200"] == 1
    assert found[requests, "GET", "/v1/jobs/{job_id}", "404"] == 1
    assert found[requests, "GET", "other", "404"] == 1
    assert found[requests, "POST", "/v1/uploads", "201"] == 1
    received = found["rankpress_http_received_bytes_total", "POST", "/v1/uploads"]
    assert received == len(model_bytes())
    assert found[("rankpress_http_requests_running",)] == 1  # this one
    assert not any(job["id"] in label for key in found for label in key)


def test_with_keys_metrics_are_for_admins(settings: Settings) -> None:
    store = Store(settings.store_url)
    tokens = {role: api_keys.create(store, tenant="a", role=role)[0] for role in Role}
    with served(settings) as running:
        for role, token in tokens.items():
            headers = {"Authorization": f"Bearer {token}"}
            response = running.client.get("/metrics", headers=headers)
            if role is Role.ADMIN:
                assert response.status_code == 200
            else:
                assert_problem(response, 403, "forbidden")
        assert_problem(running.client.get("/metrics"), 401, "unauthorized")
