from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.negotiation import choose
from rankpress.errors import NotAcceptable

OFFERS = ("application/json", "text/csv", "text/html", "text/markdown")
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        (BROWSER, "text/html"),
        ("text/csv", "text/csv"),
        ("TEXT/CSV; Header=present", "text/csv"),
        ("text/*", "text/csv"),
        ("text/*, text/csv;q=0", "text/html"),
        ("text/csv;q=0.5, text/markdown;q=0.7", "text/markdown"),
        ("text/html;q=0.2, */*;q=0.9", "application/json"),
        ("application/json;q=0, */*", "text/csv"),
        ("text/html ; q = 0.1 , text/csv ; q=0.001", "text/html"),
        ("nonsense, text/csv", "text/csv"),
        ("text/html;q=nan, text/csv;q=0.1", "text/csv"),
        ("text/html;q=7, text/csv;q=0.1", "text/csv"),
    ],
)
def test_chooses(accept: str | None, chosen: str) -> None:
    assert choose(accept, OFFERS) == chosen


@pytest.mark.parametrize(
    "accept", ["application/xml", "*/*;q=0", "text/*;q=0.000", "image/png, audio/*", "text", ";;,"]
)
def test_refuses(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="text/markdown"):
        choose(accept, OFFERS)


@given(st.text(alphabet="tex/hml*,;q=0.19 ", max_size=40))
def test_answers_or_refuses_whatever_is_sent(accept: str) -> None:
    with contextlib.suppress(NotAcceptable):
        assert choose(accept, OFFERS) in OFFERS
