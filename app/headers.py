"""The header fields that the service reads and writes, each after its RFC."""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from rankpress.errors import BadRequest

MAX_NAME = 200
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf';\s*({_NAME}\*?)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"\s]*)', re.DOTALL)
_DIGEST = re.compile(r"(?:^|,)\s*sha-256\s*=\s*([^,;]*)")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)
_RANGE = re.compile(r"bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE)


class Disposition(NamedTuple):
    """RFC 6266 and RFC 7578: a form part has a `name`, any body may have a `filename`."""

    kind: str
    name: str | None
    filename: str | None


def parse_disposition(value: str) -> Disposition:
    """`filename*` (RFC 8187) wins over `filename`; what cannot be read is left out."""
    kind = value.split(";", 1)[0].strip().lower()
    parameters: dict[str, str] = {}
    for key, text in _PARAMETER.findall(value):
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        parameters.setdefault(key.lower(), text)
    filename = parameters.get("filename")
    if (extended := parameters.get("filename*")) is not None and extended.count("'") >= 2:
        charset, _, encoded = extended.split("'", 2)
        if charset.lower() in ("utf-8", "iso-8859-1"):
            filename = unquote(encoded, encoding=charset, errors="replace")
    return Disposition(kind, parameters.get("name"), label_of(filename))


def label_of(filename: str | None) -> str | None:
    """A caller's file name as a label: its last part, without control characters, capped. It
    never becomes a path."""
    if filename is None:
        return None
    last = re.split(r"[/\\]", filename)[-1]
    clean = "".join(c for c in last if c.isprintable()).strip()
    if len(clean) > MAX_NAME:
        stem, dot, suffix = clean.rpartition(".")
        clean = clean[:MAX_NAME]
        if dot and stem and len(suffix) <= 16:
            clean = stem[: MAX_NAME - len(suffix) - 1] + dot + suffix
    return clean if clean.strip(".") else None


def attachment(filename: str) -> str:
    """RFC 6266 with an ASCII fallback for old clients."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in filename)
    if plain == filename:
        return f'attachment; filename="{filename}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def parse_digest(field: str, value: str | None) -> bytes | None:
    """The SHA-256 in a `Repr-Digest` or `Content-Digest` (RFC 9530); other algorithms are left
    to others. Raises `BadRequest` for one that cannot be a SHA-256."""
    if value is None or (match := _DIGEST.search(value)) is None:
        return None
    text = match[1].strip()
    try:
        digest = base64.b64decode(text[1:-1], validate=True)
    except binascii.Error:
        digest = b""
    if not (len(text) > 2 and text[0] == text[-1] == ":" and len(digest) == 32):
        raise BadRequest(f"{field}: sha-256 must be 32 bytes in base64 between colons")
    return digest


def digest_field(sha256_hex: str) -> str:
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256_hex)).decode()}:"


def parse_wait(prefer: str | None) -> int | None:
    """Seconds of `Prefer: wait=N` (RFC 7240); anything unreadable is ignored, as it says."""
    match = _WAIT.search(prefer or "")
    return None if match is None else int(match[1])


def parse_idempotency_key(value: str | None) -> str | None:
    """The key, with or without the quotes of a structured field. Raises `BadRequest`."""
    if value is None:
        return None
    key = value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value
    if not _KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key: 1 to 255 visible ASCII characters, e.g. a UUID")
    return key


def parse_boolean(field: str, value: str | None) -> bool | None:
    """A structured boolean, `?1` or `?0` (RFC 9651). Raises `BadRequest`."""
    if value is None:
        return None
    if value.strip() not in ("?0", "?1"):
        raise BadRequest(f"{field}: ?0 or ?1 is expected")
    return value.strip() == "?1"


def parse_count(field: str, value: str | None) -> int | None:
    """A structured integer that counts bytes. Raises `BadRequest`."""
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", value.strip()):
        raise BadRequest(f"{field}: a number of bytes is expected")
    return int(value)


class ByteRange(NamedTuple):
    """Bytes [start, end) of a representation."""

    start: int
    end: int


class Unsatisfiable(Exception):
    """The range begins beyond the end."""


def parse_range(value: str | None, size: int) -> ByteRange | None:
    """The one range asked for, None when the whole is to be sent: no header, another unit, a
    malformed one or several ranges (RFC 9110 lets a server ignore those).

    Raises `Unsatisfiable`.
    """
    if value is None or (match := _RANGE.fullmatch(value.strip())) is None:
        return None
    first, last = match[1], match[2]
    if not first and not last:
        return None
    if len(first) > 19 or len(last) > 19:
        raise Unsatisfiable
    if not first:
        length = int(last)
        if length == 0 or size == 0:
            raise Unsatisfiable
        return ByteRange(max(0, size - length), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return ByteRange(start, min(int(last) + 1, size) if last else size)


def etag_matches(field: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags (`If-None-Match`, `If-Match`) names this strong one."""
    if field.strip() == "*":
        return True
    tags = re.findall(r'(W/)?("[^"]*")', field)
    return any(tag == etag and (weak or not prefix) for prefix, tag in tags)
