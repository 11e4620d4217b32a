"""The page in a browser against real processes: a real upload to a real download."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from safetensors.numpy import load_file, save_file

from rankpress.loading import read_tensors
from tests.end_to_end.processes import Service
from tests.page.browser import Watched

SERIOUS = {"serious", "critical"}


def job_id(page: Page) -> str:
    match = re.search(r"#job=([\w-]+)", page.url)
    assert match is not None, page.url
    return match[1]


def upload(page: Page, zone: str, path: Path) -> None:
    page.set_input_files(f"#{zone}-file", str(path))
    page.wait_for_selector(f"#{zone}[data-state=full]")


def run(page: Page) -> str:
    page.get_by_role("button", name="Compress", exact=True).click()
    expect(page.locator("#results")).to_be_visible()
    expect(page.locator("#running")).to_be_hidden()
    return job_id(page)


def set_tau(page: Page, tau: str, rule: str | None = None) -> None:
    if rule is not None:
        page.select_option("#again-rule", rule)
    page.fill("#again-number", tau)


def predicted(page: Page) -> dict[str, Any]:
    """What the slider's answer says, as it stands on the page."""
    ranks = page.locator("[data-rank]")
    return {
        "parameters": int(page.inner_text("#predicted-parameters").replace(",", "")),
        "ranks": {
            str(r.get_attribute("data-rank")): int(r.inner_text().split(" of ")[0])
            for r in ranks.all()
        },
        "factorised": int(page.inner_text("#predicted-layers")),
    }


def reported(service: Service, job: str) -> dict[str, Any]:
    report = httpx.get(f"{service.url}/v1/jobs/{job}/report").json()
    spectrum = httpx.get(f"{service.url}/v1/jobs/{job}/spectrum").json()
    names = {layer["name"] for layer in spectrum["layers"]}
    return {
        "parameters": report["parameters_after"],
        "ranks": {x["name"]: x["rank"] for x in report["layers"] if x["name"] in names},
        "factorised": sum(x["action"] == "factorised" for x in report["layers"]),
    }


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in SERIOUS]


def test_upload_to_download(
    watched: Watched, live: Service, model: Path, validation: Path, tmp_path: Path
) -> None:
    page = watched.page
    upload(page, "model", model)
    upload(page, "validation", validation)
    job = run(page)

    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile("Compressed weights")).click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    report = httpx.get(f"{live.url}/v1/jobs/{job}/report").json()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == report["output_sha256"]
    assert path.stat().st_size == report["bytes_after"] < model.stat().st_size
    assert "hidden1.0.weight" in read_tensors(path)

    accuracy = next(m for m in report["evaluation"]["metrics"] if m["name"] == "accuracy")
    cards = page.inner_text("#cards")
    assert f"{100 * accuracy['compressed']:.2f} %" in cards
    assert f"dense {100 * accuracy['dense']:.2f} %" in cards
    assert f"{100 * report['bytes_after'] / report['bytes_before']:.1f} %" in cards

    assert all(url.startswith((live.url, "blob:")) for url in watched.requests)


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("HTML report", "<!doctype html>"),
        ("Markdown summary", "### Rankpress"),
        ("CSV", "name,shape"),
        ("JSON", "{"),
    ],
)
def test_report_downloads(
    watched: Watched, live: Service, model: Path, tmp_path: Path, name: str, begins: str
) -> None:
    page = watched.page
    page.goto(f"{live.url}/#job={finished_job(live, model)}")
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    download.value.save_as(tmp_path / "report")
    assert (tmp_path / "report").read_text().startswith(begins)


def finished_job(service: Service, model: Path) -> str:
    """By the API, once for each service."""
    with httpx.Client(base_url=service.url, timeout=60) as http:
        found = http.get("/v1/jobs", params={"state": "succeeded", "label": "page:test"}).json()
        if found["items"]:
            return str(found["items"][0]["id"])
        upload_id = http.post("/v1/uploads", content=model.read_bytes()).json()["id"]
        body = {"model": upload_id, "threshold": 0.9, "labels": {"page": "test"}}
        job = http.post("/v1/jobs", json=body).json()
        while job["state"] in ("queued", "running"):
            job = http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=20"}).json()
        assert job["state"] == "succeeded", job
        return str(job["id"])


def test_the_sliders_numbers_are_the_reports(watched: Watched, live: Service, model: Path) -> None:
    page = watched.page
    upload(page, "model", model)
    first = run(page)
    assert predicted(page) == reported(live, first)
    for rule, tau in (("energy", "0.97"), ("entropy", "0.8"), ("entropy", "1")):
        set_tau(page, tau, rule)
        answer = predicted(page)
        page.get_by_role("button", name="Compress at this").click()
        expect(page.locator("#result-title")).to_have_text(f"Result at τ = {tau}")
        expect(page.locator("#running")).to_be_hidden()
        assert answer == reported(live, job_id(page)), (rule, tau)
        assert predicted(page) == answer
    expect(page.locator("#runs tbody tr")).to_have_count(4)


def test_a_share_of_the_whole_model(watched: Watched, live: Service, model: Path) -> None:
    page = watched.page
    upload(page, "model", model)
    page.get_by_label("Rule", exact=True).first.select_option("budget")
    page.get_by_label("Share", exact=True).first.fill("0.6")
    expect(page.get_by_label("Share of the whole model’s parameters")).to_have_value("0.6")
    job = run(page)
    report = httpx.get(f"{live.url}/v1/jobs/{job}/report").json()
    assert report["budget"]["parameters"] == 0.6
    assert report["parameters_after"] <= 0.6 * report["parameters_before"]
    expect(page.locator("#result-title")).to_have_text("Result at 60 % of the parameters")
    expect(page.locator("#python")).to_contain_text('rule="budget", budget={"parameters": 0.6}')

    # Its spectra answer for the thresholds, too.
    answer = predicted(page)
    page.get_by_role("button", name="Compress at this").click()
    expect(page.locator("#result-title")).to_have_text("Result at τ = 0.9")
    assert answer == reported(live, job_id(page))
    expect(page.locator("#runs tbody tr").first).to_contain_text("60 % of the parameters")
    page.go_back()
    expect(page.locator("#result-title")).to_have_text("Result at 60 % of the parameters")


def test_a_bound_on_the_metric(
    watched: Watched, live: Service, model: Path, validation: Path, tmp_path: Path
) -> None:
    page = watched.page
    few = tmp_path / "few.safetensors"  # each model of the search is scored on them
    save_file({name: array[:200] for name, array in load_file(validation).items()}, few)
    compress = page.get_by_role("button", name="Compress", exact=True)
    upload(page, "model", model)
    page.get_by_label("Rule", exact=True).first.select_option("auto")
    expect(page.get_by_text("Needs validation data.")).to_be_visible()
    expect(compress).to_be_disabled()
    upload(page, "validation", few)
    expect(page.get_by_text("Needs validation data.")).to_be_hidden()
    page.get_by_label("Task").select_option("regression")
    expect(page.get_by_label("How much worse the mse may get")).to_be_visible()
    page.get_by_label("Task").select_option("classification")
    page.get_by_label("How much worse the accuracy may get").fill("0.2")
    assert serious(page) == []
    job = run(page)
    report = httpx.get(f"{live.url}/v1/jobs/{job}/report").json()
    assert report["rule"] == "auto"
    assert report["evaluation"]["verdict"] == "within"
    expect(page.locator("#evaluation-body")).to_contain_text("within the bound given")
    expect(page.locator("#python")).to_contain_text('"max_drop": {"accuracy": 0.2}')
    # A threshold again: nothing that is hidden holds the form up.
    page.get_by_label("Rule", exact=True).first.select_option("energy")
    run(page)
    expect(page.locator("#result-title")).to_have_text("Result at τ = 0.9")


def test_the_slider_moves_by_the_keyboard_without_a_request(
    watched: Watched, live: Service, model: Path
) -> None:
    page = watched.page
    page.goto(f"{live.url}/#job={finished_job(live, model)}")
    expect(page.locator("#results")).to_be_visible()
    before, asked = predicted(page), len(watched.requests)
    page.focus("#again-slider")
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#again-number")).to_have_value("0.8")
    after = predicted(page)
    assert after["parameters"] < before["parameters"]
    assert all(after["ranks"][name] < rank for name, rank in before["ranks"].items())
    assert len(watched.requests) == asked
    expect(page.locator("#predicted-spoken")).to_contain_text("At 0.8:")


def test_progress_is_shown_layer_by_layer(watched: Watched, live: Service, model: Path) -> None:
    page = watched.page
    page.evaluate(
        """() => { window.seen = new Set();
        new MutationObserver(() => document.querySelectorAll('#job-layers code')
          .forEach((c) => window.seen.add(c.textContent)))
          .observe(document.getElementById('job-layers'), { childList: true }); }"""
    )
    upload(page, "model", model)
    job = run(page)
    seen = set(page.evaluate("[...window.seen]"))
    assert set(reported(live, job)["ranks"]) <= seen


def test_a_file_that_is_no_checkpoint(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    wrong = tmp_path / "model.pt"
    wrong.write_text("<html><body>Please log in</body></html>")
    page.set_input_files("#model-file", str(wrong))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("HTML")
    expect(alert).to_contain_text("safetensors")
    expect(alert).to_contain_text("urn:rankpress:request:")
    expect(alert).to_be_focused()
    expect(page.get_by_role("button", name="Compress", exact=True)).to_be_disabled()
    assert serious(page) == []
    assert all("422" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_a_job_that_fails_says_why(watched: Watched, model: Path) -> None:
    page = watched.page
    upload(page, "model", model)
    upload(page, "validation", model)  # a checkpoint, and no inputs and targets
    page.get_by_role("button", name="Compress", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("inputs")
    expect(page.locator("#running")).to_be_hidden()
    watched.complaints.clear()


def test_an_unknown_job_in_the_address(watched: Watched, live: Service) -> None:
    watched.page.goto(f"{live.url}/#job=nobody")
    watched.page.reload()
    expect(watched.page.get_by_role("alert")).to_contain_text("no job")
    watched.complaints.clear()


def test_search_and_sort(watched: Watched, live: Service, model: Path) -> None:
    page = watched.page
    page.goto(f"{live.url}/#job={finished_job(live, model)}")
    page.get_by_label("Search names and reasons").fill("output layer")
    expect(page.locator("#table tbody tr")).to_have_count(1)
    expect(page.locator("#search-count")).to_have_text("1 of 6 tensors")
    page.get_by_label("Search names and reasons").fill("")
    page.locator("#search-action").select_option("passed_through")
    expect(page.locator("#table tbody tr")).to_have_count(3)
    page.locator("#search-action").select_option("")
    page.get_by_role("button", name="Parameters").click()
    page.get_by_role("button", name="Parameters").click()
    expect(page.locator("#table tbody tr").first).to_contain_text("hidden1.weight")
    expect(page.get_by_role("columnheader", name="Parameters")).to_have_attribute(
        "aria-sort", "descending"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1180])
def test_without_serious_findings_and_without_sideways_scrolling(
    browser: Any, live: Service, model: Path, scheme: Any, width: int
) -> None:
    watched = Watched(browser, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = watched.page
    page.goto(live.url)
    assert serious(page) == []
    page.goto(f"{live.url}/#job={finished_job(live, model)}")
    expect(page.locator("#figures li")).to_have_count(2)
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    watched.context.close()
    assert watched.complaints == []


def test_the_html_report_without_serious_findings(
    browser: Any, live: Service, model: Path, tmp_path: Path
) -> None:
    """From disk, as it comes with a pull request. Axe needs a script, so its policy is lifted."""
    url = f"{live.url}/v1/jobs/{finished_job(live, model)}/report"
    file = tmp_path / "report.html"
    file.write_bytes(httpx.get(url, headers={"Accept": "text/html"}).content)
    watched = Watched(browser, bypass_csp=True, viewport={"width": 375, "height": 800})
    watched.page.goto(file.as_uri())
    assert serious(watched.page) == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") == 375
    assert watched.requests == [file.as_uri()]
    watched.context.close()


def test_theme_is_toggled_and_kept(watched: Watched) -> None:
    page = watched.page
    root = page.locator("html")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark theme").click()
    expect(root).to_have_attribute("data-theme", "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.reload()
    expect(root).to_have_attribute("data-theme", "dark")
    expect(page.get_by_role("button", name="Light theme")).to_be_visible()


def test_names_from_files_are_text(watched: Watched, tmp_path: Path, live: Service) -> None:
    name = "<img src=x onerror=alert(1)>\u202e.weight"
    shown = "<img src=x onerror=alert(1)>\\u202e.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [8, 6], "data_offsets": [0, 192]}})
    file = tmp_path / "hostile.safetensors"
    file.write_bytes(len(header.encode()).to_bytes(8, "little") + header.encode() + b"\x01" * 192)
    page = watched.page
    page.uncheck("#protect")
    upload(page, "model", file)
    run(page)
    assert page.locator("#table tbody code").inner_text() == shown
    assert page.locator("#results img").count() == 0


def test_the_key_goes_into_requests_and_snippets_and_stays_in_memory(
    watched: Watched, live: Service, model: Path
) -> None:
    page = watched.page
    page.get_by_text("API key", exact=True).click()
    page.get_by_label("Where the service asks for one").fill("rp_secret")
    with page.expect_request("**/v1/uploads") as sent:
        upload(page, "model", model)
    assert sent.value.headers["authorization"] == "Bearer rp_secret"
    run(page)
    expect(page.locator("#curl")).to_contain_text("Bearer $RANKPRESS_API_KEY")
    assert "rp_secret" not in page.content()
    assert page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == (
        '[{},{},""]'
    )


def test_a_model_is_dropped(watched: Watched, model: Path) -> None:
    page = watched.page
    data = page.evaluate_handle(
        """(bytes) => { const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], 'm.st'));
        return data; }""",
        base64.b64encode(model.read_bytes()).decode(),
    )
    page.dispatch_event("#model", "drop", {"dataTransfer": data})
    expect(page.locator("#model-status")).to_contain_text("m.st, 2.0 MiB, safetensors, 6 tensors")
    page.get_by_role("button", name="Remove the model").click()
    expect(page.get_by_role("button", name="Compress", exact=True)).to_be_disabled()
    expect(page.locator("#model-file")).to_be_focused()
