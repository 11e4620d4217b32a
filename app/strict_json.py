"""JSON as RFC 8259 has it, and no more: what Python's parser lets through is refused here."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from app.pointers import pointer_to
from rankpress.errors import InvalidRequest

MAX_DEPTH = 32
MAX_DIGITS = 300


def parse(body: bytes, what: str = "") -> dict[str, Any]:
    """An object, or `InvalidRequest` with a pointer below `what` (a pointer itself).

    Refused: text that is not UTF-8, duplicate keys, NaN and Infinity, numbers that no float
    holds, integers of more than 300 digits, nesting beyond 32, lone surrogates.
    """

    def refuse(detail: str) -> NoReturn:
        raise InvalidRequest.at(what, detail)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            refuse(f"the key {twice[:60]!r} is there twice in one object")
        return found

    def constant(name: str) -> NoReturn:
        refuse(f"{name} is no JSON number; leave the field out or send a finite number")

    def integer(text: str) -> int:
        if len(text) > MAX_DIGITS:
            refuse(f"an integer of {len(text)} digits; at most {MAX_DIGITS} are read")
        return int(text)

    def real(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse(f"the number {text[:40]} is beyond what a 64-bit float holds")
        return value

    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest.at(what, f"not UTF-8 at byte {error.start}") from error
    try:
        document = json.loads(
            text,
            object_pairs_hook=unique,
            parse_constant=constant,
            parse_int=integer,
            parse_float=real,
        )
    except json.JSONDecodeError as error:
        raise InvalidRequest.at(
            what, f"not JSON: {error.msg.lower()} at line {error.lineno} column {error.colno}"
        ) from error
    except RecursionError as error:
        raise InvalidRequest.at(what, f"nested deeper than {MAX_DEPTH} levels") from error
    if not isinstance(document, dict):
        refuse(f"a JSON object is expected; found {_kind(document)}")
    _check(document, what)
    return document


def _check(document: Any, what: str) -> None:
    stack: list[tuple[Any, tuple[str | int, ...]]] = [(document, ())]
    while stack:
        value, path = stack.pop()
        if len(path) > MAX_DEPTH:
            raise InvalidRequest.at(what, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, str):
            _check_text(value, what + pointer_to(path))
        elif isinstance(value, dict):
            for key, inner in value.items():
                _check_text(key, what + pointer_to(path))
                stack.append((inner, (*path, key)))
        elif isinstance(value, list):
            stack.extend((inner, (*path, at)) for at, inner in enumerate(value))


def _check_text(text: str, pointer: str) -> None:
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise InvalidRequest.at(pointer, "text with a null character or a lone surrogate")


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
