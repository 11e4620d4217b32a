"""Bytes that never become a request are answered with a problem all the same."""

from __future__ import annotations

import socket

import pytest

from app.protocol import MAX_HEAD_BYTES
from tests.app.conftest import Served
from tests.app.rawhttp import connect, head, read_to_end

PREFIX = "urn:rankpress:problem:"


@pytest.mark.parametrize(
    ("sent", "status", "slug"),
    [
        (head("GET", "/healthz", X_Long="a" * 2 * MAX_HEAD_BYTES), 431, "headers-too-large"),
        (head("GET", "/" + "a" * 2 * MAX_HEAD_BYTES), 431, "headers-too-large"),
        (b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, 431, "headers-too-large"),
        (b"hello there\r\n\r\n", 400, "bad-request"),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400, "bad-request"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400, "bad-request"),  # no Host
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad-request"),  # TLS
        (head("POST", "/v1/jobs", Content_Length="-1"), 400, "bad-request"),
        (head("POST", "/v1/jobs", Content_Length="1, 2"), 400, "bad-request"),
    ],
    ids=["field", "path", "fields", "words", "colon", "host", "tls", "negative", "two"],
)
def test_what_is_no_request(sent: bytes, status: int, slug: str, shared: Served) -> None:
    with connect(shared) as connection:
        connection.sendall(sent)
        found, headers, body = read_to_end(connection)
    assert found == status
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    assert body["type"] == PREFIX + slug
    assert body["status"] == status
    assert body["instance"] == f"urn:rankpress:request:{headers['x-request-id']}"
    assert shared.client.get("/healthz").status_code == 200


def test_headers_below_the_limit_pass(shared: Served) -> None:
    long = "a" * (MAX_HEAD_BYTES // 2)
    assert shared.client.get("/healthz", headers={"X-Long": long}).status_code == 200


def test_a_broken_body_under_way(shared: Served) -> None:
    """A chunk's size that is none: the request is there already, and so is its end."""
    with connect(shared) as connection:
        connection.sendall(
            head("POST", "/v1/uploads", Transfer_Encoding="chunked", Connection="close",
                 Content_Type="application/octet-stream") + b"zz\r\nnothing\r\n"
        )  # fmt: skip
        connection.shutdown(socket.SHUT_WR)
        found, headers, _ = read_to_end(connection)
    assert found == 400
    assert headers["content-type"] == "application/problem+json"
    assert shared.stored() == []
