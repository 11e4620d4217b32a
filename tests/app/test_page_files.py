"""The page as it is served: its files, its policy, and nothing of anyone else's."""

from __future__ import annotations

import re

import httpx
import pytest

from app.routes.page import MEDIA_TYPES, assets
from tests.app.appkit import assert_problem
from tests.app.conftest import Served


@pytest.fixture(scope="module")
def client(shared: Served) -> httpx.Client:
    return shared.client


def test_the_page(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert response.headers["referrer-policy"] == "no-referrer"


def test_every_file_that_the_page_names_is_served(client: httpx.Client) -> None:
    text = client.get("/").text
    named = set(re.findall(r'(?:src|href)="page/([^"]+)"', text))
    seen: set[str] = set()
    while named - seen:
        name = (named - seen).pop()
        seen.add(name)
        response = client.get(f"/page/{name}")
        assert response.status_code == 200, name
        assert response.headers["content-type"] == MEDIA_TYPES[name[name.rfind(".") :]]
        named |= set(re.findall(r'from "\./([^"]+)"', response.text))
    assert seen | {"index.html"} == set(assets())  # and none lies about unused


def test_unchanged_files_are_not_sent_again(client: httpx.Client) -> None:
    etag = client.get("/page/main.js").headers["etag"]
    again = client.get("/page/main.js", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    "path", ["/page/nothing.js", "/page/..%2fmain.py", "/page/%2e%2e/main.py", "/page/"]
)
def test_nothing_else_is_a_file_of_the_page(client: httpx.Client, path: str) -> None:
    assert_problem(client.get(path), 404, "not-found")


def test_no_file_names_another_host_or_holds_inline_code() -> None:
    for name, asset in assets().items():
        text = asset.body.decode()
        hosts = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not hosts, name
        assert "innerHTML" not in text, name
        assert not re.search(r"\sstyle=|\son\w+=\"|<script>|<style", text), name
