"""The interactive API page: everything it loads comes from this service."""

from __future__ import annotations

import re

import httpx

from tests.app.conftest import Served


def test_the_page_and_its_parts_are_served_here(service: Served) -> None:
    client = service.client
    page = client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(addresses) >= 3
    for address in addresses:
        here = httpx.URL(str(page.url)).join(address)
        assert here.host == page.url.host, address
        assert client.get(here).status_code == 200
    # A key typed into the page is not kept by the browser.
    assert '"persistAuthorization": false' in page.text
    assert client.get("/redoc").status_code == 404
