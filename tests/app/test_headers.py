"""Header fields, against their RFCs' examples and with anything at all."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.headers import (
    Unsatisfiable,
    attachment,
    digest_field,
    etag_matches,
    label_of,
    parse_digest,
    parse_disposition,
    parse_range,
    parse_wait,
)
from rankpress.errors import BadRequest


@pytest.mark.parametrize(
    ("value", "filename"),
    [
        ("attachment", None),
        ("attachment; filename=model.pt", "model.pt"),
        ('attachment; filename="a b;c.pt"', "a b;c.pt"),
        (r'attachment; filename="say \"hi\".pt"', 'say "hi".pt'),
        ("ATTACHMENT; FILENAME=x.pt", "x.pt"),
        ("attachment; filename*=UTF-8''%e2%82%ac%20rates.pt", "€ rates.pt"),
        ("attachment; filename=\"EURO.pt\"; filename*=utf-8'en'%e2%82%ac.pt", "€.pt"),
        ("attachment; filename=a.pt; filename*=unknown''b.pt", "a.pt"),
        ("attachment; filename=../../etc/passwd", "passwd"),
        (r'attachment; filename="C:\\dir\\x.pt"', "x.pt"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx.pt", "x.pt"),
        ("attachment; filename=..", None),
        ('attachment; filename=""', None),
        ('attachment; filename="a\x00\x1b[31mb.pt"', "a[31mb.pt"),
    ],
)
def test_a_file_name_is_a_label(value: str, filename: str | None) -> None:
    assert parse_disposition(value).filename == filename


def test_a_long_name_keeps_its_suffix() -> None:
    label = label_of("x" * 300 + ".safetensors")
    assert label is not None
    assert len(label) == 200
    assert label.endswith("x.safetensors")


@given(st.text(max_size=400))
def test_any_name_is_safe(name: str) -> None:
    label = label_of(name)
    assert label is None or (
        0 < len(label) <= 200
        and label.isprintable()
        and not set(label) & {"/", "\\"}
        and label.strip(".")
    )


@given(st.text(max_size=100))
def test_an_attachment_is_read_back(name: str) -> None:
    label = label_of(name)
    if label is not None and all(not "\ud800" <= c <= "\udfff" for c in label):
        field = attachment(label)
        assert field.isascii()
        assert parse_disposition(field).filename == label


@given(st.binary(max_size=100))
def test_a_digest_is_read_back(data: bytes) -> None:
    digest = hashlib.sha256(data)
    field = digest_field(digest.hexdigest())
    assert parse_digest("Repr-Digest", field) == digest.digest()
    assert parse_digest("Repr-Digest", f"sha-512=:AAAA:, {field}") == digest.digest()
    assert base64.b64decode(field[9:-1]) == digest.digest()


@pytest.mark.parametrize(
    "value",
    [
        "sha-256=",
        "sha-256=abc",
        "sha-256=:abc:",
        "sha-256=:" + "A" * 44,
        "sha-256=:AAAA:",
        "sha-256=::",
    ],
)
def test_a_malformed_digest_is_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        parse_digest("Repr-Digest", value)


@pytest.mark.parametrize("value", [None, "", "sha-512=:AAAA:", "unixsum=1", "xsha-256=:AAAA:"])
def test_another_algorithm_is_left_alone(value: str | None) -> None:
    assert parse_digest("Repr-Digest", value) is None


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, None),
        ("wait=20", 20),
        ("respond-async, wait=20", 20),
        ("wait=20;foo=bar, respond-async", 20),
        ("Wait = 7", 7),
        ('wait="5"', 5),
        ("wait=0", 0),
        ("wait", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("nowait=5", None),
    ],
)
def test_wait(prefer: str | None, seconds: int | None) -> None:
    assert parse_wait(prefer) == seconds


@given(st.integers(0, 1000), st.integers(0, 2000), st.integers(0, 2000))
def test_a_range_lies_within(size: int, first: int, last: int) -> None:
    """Against the definition: the bytes whose position is in first..last."""
    wanted = [position for position in range(size) if first <= position <= last]
    try:
        found = parse_range(f"bytes={first}-{last}", size)
    except Unsatisfiable:
        assert first >= size
        return
    if last < first:
        assert found is None
    else:
        assert found is not None
        assert list(range(*found)) == wanted


@given(st.text(max_size=50))
def test_any_range_is_answered(text: str) -> None:
    try:
        found = parse_range(text, 100)
    except Unsatisfiable:
        return
    assert found is None or 0 <= found.start < found.end <= 100


def test_entity_tags() -> None:
    assert etag_matches('"a", "b"', '"b"', weak=False)
    assert etag_matches('W/"b"', '"b"', weak=True)
    assert not etag_matches('W/"b"', '"b"', weak=False)
    assert not etag_matches('"ab"', '"b"', weak=True)
