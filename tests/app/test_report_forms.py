"""The report and the spectrum over HTTP: which form, which headers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from rankpress.schemas.spectrum import SpectrumDocument
from rankpress.service import keys
from rankpress.service.store import Store
from tests.app.appkit import assert_problem, sha256, submit
from tests.app.conftest import Served
from tests.app.jobrows import succeed
from tests.rankpress.reporting import samples


@pytest.fixture
def job(service: Served) -> str:
    job_id = str(submit(service.client)["id"])
    report = samples.report(job_id=job_id).model_dump_json().encode()
    succeed(service.settings, job_id, b"weights", report)
    return job_id


@pytest.fixture
def spectrum(service: Served, job: str) -> bytes:
    data = samples.spectrum().model_dump_json().encode()
    Store(service.settings.store_url).put_bytes(keys.job_spectrum("default", job), data)
    return data


def get(client: httpx.Client, job: str, what: str = "report", **headers: Any) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/v1/jobs/{job}/{what}", headers=named)


@pytest.mark.parametrize(
    ("accept", "content_type", "begins"),
    [
        ("application/json", "application/json", "{"),
        ("text/csv", "text/csv; charset=utf-8", "name,shape,"),
        ("text/html,*/*;q=0.8", "text/html; charset=utf-8", "<!doctype html>"),
        ("text/markdown", "text/markdown; charset=utf-8", "### Rankpress"),
    ],
)
def test_forms(
    client: httpx.Client, job: str, spectrum: bytes, accept: str, content_type: str, begins: str
) -> None:
    response = get(client, job, Accept=accept)
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    assert response.text.startswith(begins)
    assert response.headers["vary"] == "Accept"
    assert response.headers["etag"] == f'"{sha256(response.content)}"'
    again = get(client, job, Accept=accept, If_None_Match=response.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert get(client, job, Accept=accept, If_Match='"other"').status_code == 412


def test_html_draws_the_spectra_and_lends_no_origin(
    client: httpx.Client, job: str, spectrum: bytes
) -> None:
    response = get(client, job, Accept="text/html")
    assert response.text.count('<svg class="spectrum"') == 2
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert policy.endswith("; sandbox")


def test_html_without_spectra(client: httpx.Client, job: str) -> None:
    assert "not at hand" in get(client, job, Accept="text/html").text


def test_a_form_that_there_is_not(client: httpx.Client, job: str) -> None:
    assert_problem(get(client, job, Accept="application/xml"), 406, "not-acceptable")


def test_spectrum(client: httpx.Client, job: str, spectrum: bytes) -> None:
    response = get(client, job, "spectrum")
    assert response.content == spectrum
    assert SpectrumDocument.model_validate_json(response.content) == samples.spectrum()
    again = get(client, job, "spectrum", If_None_Match=response.headers["etag"])
    assert again.status_code == 304


def test_spectrum_that_is_not_there(client: httpx.Client, job: str) -> None:
    assert_problem(get(client, job, "spectrum"), 404, "not-found")


def test_spectrum_of_a_job_under_way(client: httpx.Client) -> None:
    assert_problem(get(client, str(submit(client)["id"]), "spectrum"), 409, "not-ready")
