"""`multipart/form-data` (RFC 7578) read as it arrives: no part is spooled to a disk or held."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.headers import parse_disposition
from rankpress.errors import BadRequest, InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 32


class PartBegin(NamedTuple):
    name: str
    filename: str | None  # a label; None for a text field
    is_file: bool


class PartData(NamedTuple):
    data: bytes


class PartEnd(NamedTuple):
    pass


Event = PartBegin | PartData | PartEnd


def boundary_of(content_type: str) -> bytes:
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise BadRequest("Content-Type: multipart/form-data needs a boundary of 1 to 70 characters")
    return boundary


async def events(boundary: bytes, chunks: AsyncIterator[bytes]) -> AsyncGenerator[Event, None]:
    """The parts in the order they arrive. Raises `BadRequest` for a malformed or cut body."""
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
            for event in reader.take():
                yield event
        parser.finalize()
    except FormParserError as error:
        raise BadRequest("the multipart body is malformed; send multipart/form-data") from error
    if not reader.ended:
        raise BadRequest("the multipart body ended before its closing boundary; send it again")


class _Reader:
    """Turns the parser's callbacks into events."""

    def __init__(self) -> None:
        self.ended = False
        self._events: list[Event] = []
        self._parts = 0
        self._field = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": lambda data, start, end: self._events.append(PartData(data[start:end])),
            "on_part_end": lambda: self._events.append(PartEnd()),
            "on_end": self._end,
        }

    def take(self) -> list[Event]:
        taken, self._events = self._events, []
        return taken

    def _begin(self) -> None:
        self._headers = {}
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"the multipart body has more than {MAX_PARTS} parts")

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers.setdefault(self._field.lower(), self._value)
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        # RFC 7578: names travel as UTF-8, whatever the header's own rules are.
        text = self._headers.get(b"content-disposition", b"").decode("utf-8", "replace")
        disposition = parse_disposition(text)
        if disposition.kind != "form-data" or not disposition.name:
            raise BadRequest("each part needs Content-Disposition: form-data with a name")
        if b"content-transfer-encoding" in self._headers:
            encoding = self._headers[b"content-transfer-encoding"].lower()
            if encoding not in (b"binary", b"8bit", b"7bit"):
                raise InvalidRequest.at(
                    "/" + disposition.name[:60], "send the bytes as they are, not encoded"
                )
        is_file = "filename" in text.lower()
        self._events.append(PartBegin(disposition.name, disposition.filename, is_file))

    def _end(self) -> None:
        self.ended = True
