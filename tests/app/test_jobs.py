"""Submitting, looking, listing, cancelling and deleting, over HTTP and without a worker."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest

from app.presentation import job_of
from rankpress.schemas.request import JobRequest, Webhook
from rankpress.service.engine import Engine
from rankpress.service.settings import Settings
from rankpress.service.spec import JobSpec
from tests.app.appkit import assert_problem, model_bytes, npz_bytes, sha256, submit, upload
from tests.app.conftest import Served
from tests.app.jobrows import set_progress, set_state, succeed


def test_a_submitted_job_is_queued_and_found(client: httpx.Client) -> None:
    model = upload(client)
    response = client.post("/v1/jobs", json={"model": model, "threshold": 0.9})
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(response.headers["retry-after"]) >= 1
    assert (job["state"], job["stage"], job["error"]) == ("queued", None, None)
    assert job["request"]["model"] == model
    assert job["links"]["cancel"] == f"/v1/jobs/{job['id']}/cancel"
    assert client.get(response.headers["location"]).json() == job


def test_progress_is_shown_while_running(service: Served) -> None:
    job = submit(service.client)
    set_state(service.settings, job["id"], "PENDING")
    set_progress(service.settings, job["id"], "factorise", 3, 7)
    found = service.client.get(f"/v1/jobs/{job['id']}").json()
    assert (found["state"], found["stage"]) == ("running", "factorise")
    assert found["progress"] == {"done": 3, "total": 7}


def test_one_shot_brings_its_files(service: Served) -> None:
    client = service.client
    response = client.post(
        "/v1/jobs",
        files={"model": ("m.safetensors", model_bytes()), "validation": ("v.npz", npz_bytes())},
        data={"threshold": "0.9", "options": json.dumps({"rule": "energy", "labels": {"a": "b"}})},
    )
    assert response.status_code == 202, response.text
    request = response.json()["request"]
    assert (request["rule"], request["threshold"], request["labels"]) == ("energy", 0.9, {"a": "b"})
    model = client.get(f"/v1/uploads/{request['model']}").json()
    assert (model["filename"], model["sha256"]) == ("m.safetensors", sha256(model_bytes()))
    validation = client.get(f"/v1/uploads/{request['evaluation']['validation']}").json()
    assert (validation["format"], validation["size_bytes"]) == ("npz", len(npz_bytes()))
    assert client.delete(response.headers["location"]).status_code == 204
    assert service.stored() == []


def test_options_may_come_before_the_files(client: httpx.Client) -> None:
    parts = [
        ("options", (None, json.dumps({"layers": [{"match": "0.*", "rank": 2}]}))),
        ("threshold", (None, "9e-1")),
        ("model", ("../../etc/m.pt", model_bytes())),
    ]
    response = client.post("/v1/jobs", files=parts)
    assert response.status_code == 202, response.text
    model = response.json()["request"]["model"]
    assert client.get(f"/v1/uploads/{model}").json()["filename"] == "m.pt"


def test_the_same_key_and_body_is_the_same_job(service: Served) -> None:
    model = upload(service.client)
    headers = {"Idempotency-Key": "6f1c", "Content-Type": "application/json"}
    texts = [
        json.dumps({"model": model, "threshold": 0.9}),
        json.dumps({"threshold": 0.9, "model": model}, indent=2),  # other text, same content
    ]
    answers = [service.client.post("/v1/jobs", content=t, headers=headers) for t in texts]
    assert [a.status_code for a in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    other = json.dumps({"model": model, "threshold": 0.8})
    response = service.client.post("/v1/jobs", content=other, headers=headers)
    assert_problem(response, 422, "idempotency-mismatch")
    assert len(service.client.get("/v1/jobs").json()["items"]) == 1


def test_a_repeated_form_leaves_no_second_upload(service: Served) -> None:
    def send(threshold: str, data: bytes) -> httpx.Response:
        return service.client.post(
            "/v1/jobs",
            files={"model": ("m.safetensors", data)},
            data={"threshold": threshold},
            headers={"Idempotency-Key": '"quoted"'},
        )

    first = send("0.9", model_bytes())
    before = service.stored()
    again = send("0.9", model_bytes())
    assert again.json()["id"] == first.json()["id"]
    assert_problem(send("0.9", model_bytes(7, 4)), 422, "idempotency-mismatch")
    assert_problem(send("0.8", model_bytes()), 422, "idempotency-mismatch")
    assert service.stored() == before


def test_a_key_still_in_work_is_a_conflict(service: Served) -> None:
    """The first form stays open while the second with the same key arrives."""
    boundary, go_on, arrived = b"x", threading.Event(), threading.Event()
    head = b'--x\r\nContent-Disposition: form-data; name="threshold"\r\n\r\n0.9\r\n'
    file = b'--x\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n'

    def slowly() -> Any:
        yield head
        arrived.set()
        go_on.wait(20)
        yield file + model_bytes() + b"\r\n--x--\r\n"

    headers = {
        "Idempotency-Key": "k",
        "Content-Type": f"multipart/form-data; boundary={boundary.decode()}",
    }
    answers: list[httpx.Response] = []
    slow = threading.Thread(
        target=lambda: answers.append(
            httpx.post(f"{service.client.base_url}/v1/jobs", content=slowly(), headers=headers)
        )
    )
    slow.start()
    arrived.wait(20)
    body = {"model": upload(service.client), "threshold": 0.9}
    for _ in range(100):  # until the first request has reached the endpoint
        response = service.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
        if response.status_code == 409:
            break
        service.client.delete(response.headers["location"])
    problem = assert_problem(response, 409, "conflict")
    assert "still being worked on" in problem["detail"]
    go_on.set()
    slow.join(30)
    assert answers[0].status_code == 202, answers[0].text


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
def test_a_key_that_is_none(key: str, client: httpx.Client) -> None:
    response = client.post("/v1/jobs", json={}, headers={"Idempotency-Key": key})
    assert_problem(response, 400, "bad-request")


def test_too_many_open_jobs(service: Served) -> None:
    jobs = [submit(service.client) for _ in range(3)]
    body = {"model": jobs[0]["request"]["model"], "threshold": 0.5}
    response = service.client.post("/v1/jobs", json=body)
    problem = assert_problem(response, 429, "too-many-requests")
    assert problem["detail"].startswith("3 jobs")
    assert int(response.headers["retry-after"]) >= 1
    service.client.post(jobs[0]["links"]["cancel"])
    assert service.client.post("/v1/jobs", json=body).status_code == 202


def test_wait_is_capped_and_ends_with_the_job(service: Served) -> None:
    job = submit(service.client)
    url = f"/v1/jobs/{job['id']}"
    response = service.client.get(url, headers={"Prefer": "respond-async, wait=0"})
    assert response.headers["preference-applied"] == "wait=0"
    assert response.json()["state"] == "queued"
    timer = threading.Timer(0.3, set_state, (service.settings, job["id"], "CANCELLED"))
    timer.start()
    response = service.client.get(url, headers={"Prefer": "wait=99999"})
    timer.join()
    assert response.headers["preference-applied"] == "wait=60"
    assert response.json()["state"] == "canceled"
    assert "preference-applied" not in service.client.get(url, headers={"Prefer": "wait=x"}).headers


def test_cancel_and_cancel_again(client: httpx.Client) -> None:
    job = submit(client)
    response = client.post(job["links"]["cancel"])
    assert (response.status_code, response.json()["state"]) == (202, "canceled")
    assert response.json()["links"]["cancel"] is None
    problem = assert_problem(client.post(job["links"]["cancel"]), 409, "conflict")
    assert "canceled" in problem["detail"]


def test_delete_takes_the_artifacts_and_leaves_the_upload(service: Served) -> None:
    job = submit(service.client)
    succeed(service.settings, job["id"], b"weights")
    assert service.client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert_problem(service.client.get(f"/v1/jobs/{job['id']}"), 404, "not-found")
    assert_problem(service.client.delete(f"/v1/jobs/{job['id']}"), 404, "not-found")
    upload_id = job["request"]["model"]
    assert service.stored() == [
        f"uploads/default/{upload_id}/data",
        f"uploads/default/{upload_id}/upload.json",
    ]


def test_an_upload_in_use_is_kept(client: httpx.Client) -> None:
    job = submit(client)
    path = f"/v1/uploads/{job['request']['model']}"
    problem = assert_problem(client.delete(path), 409, "conflict")
    assert job["id"] in problem["detail"]
    client.post(job["links"]["cancel"])
    assert client.delete(path).status_code == 204
    assert_problem(client.delete(path), 404, "not-found")


def test_the_webhook_secret_is_not_repeated(settings: Settings) -> None:
    webhook = Webhook(url="https://example.org/hook", secret="whsec_c2VjcmV0")
    request = JobRequest(model="m", threshold=0.5, webhook=webhook)
    spec = JobSpec(tenant="default", job_id="j", request=request, body_sha256="0")
    engine = Engine(settings)
    assert engine.submit(spec)
    record = engine.get("default", "j")
    assert record is not None
    text = job_of(engine, record).model_dump_json()
    engine.close()
    assert "whsec_redacted" in text
    assert "c2VjcmV0" not in text


def test_a_webhook_is_taken_and_has_no_deliveries_yet(client: httpx.Client) -> None:
    secret = "whsec_" + "c2VjcmV0" * 4
    job = submit(client, webhook={"url": "https://hook.example/?token=t", "secret": secret})
    assert job["request"]["webhook"] == {
        "url": "https://hook.example/?token=t",
        "secret": "whsec_redacted",
    }
    for path in (f"/v1/jobs/{job['id']}", "/v1/jobs", f"/v1/jobs/{job['id']}/deliveries"):
        assert secret not in client.get(path).text
    assert client.get(f"/v1/jobs/{job['id']}/deliveries").json() == {"items": []}
    assert_problem(client.get("/v1/jobs/none/deliveries"), 404, "not-found")


def test_an_npz_is_no_model(client: httpx.Client) -> None:
    body = {"model": upload(client, npz_bytes()), "threshold": 0.9}
    response = client.post("/v1/jobs", json=body)
    problem = assert_problem(response, 422, "unsupported-format", "/model")
    assert "npz" in problem["detail"]
