"""pydantic's errors as JSON pointers into the document that the caller sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rankpress.schemas.problem import ProblemItem

# A validator of a whole model names the field it means as "field: what is wrong".
_FIELD = re.compile(r"^Value error, (?:([a-z_]+): )?(.*)$", re.DOTALL)
_SHOWN = 60


def pointer_to(path: Iterable[str | int]) -> str:
    """RFC 6901: `~` and `/` inside a name are escaped."""
    return "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in path)


def items_of(errors: Sequence[Mapping[str, Any]], document: Any) -> tuple[ProblemItem, ...]:
    """One item a pointer, in the errors' order.

    pydantic's `loc` mixes the caller's keys with tags of its own (which member of a union, which
    validator); what does not lead anywhere in the document is left out. A union reports every
    member that did not match: "not a list" beside "above 1" is noise, so a mismatch of type gives
    way to a more exact error at the same place or below it.
    """
    found: list[tuple[str, str, bool]] = []
    for error in errors:
        pointer = pointer_to(_path(error, document))
        field, text = None, str(error["msg"])
        if match := _FIELD.match(text):
            field, text = match[1], match[2]
        if field is not None:
            pointer += pointer_to([field])
        if error["type"] not in ("missing", "value_error"):
            text += _shown(error.get("input"), pointer)
        found.append((pointer, text, error["type"].endswith("_type")))
    kept: dict[str, str] = {}
    for at, (pointer, text, vague) in enumerate(found):
        others = found[:at] + found[at + 1 :]
        exact = any((p == pointer and not v) or p.startswith(pointer + "/") for p, _, v in others)
        if not (vague and exact):
            kept.setdefault(pointer, text)
    return tuple(ProblemItem(pointer=p, detail=t) for p, t in kept.items())


def _path(error: Mapping[str, Any], document: Any) -> list[str | int]:
    loc: Sequence[str | int] = error["loc"]
    if loc and loc[0] in ("query", "header", "path", "cookie"):
        return list(loc)
    path: list[str | int] = []
    at = document
    for step in loc:
        if isinstance(at, Mapping):
            inside = step in at
        else:
            inside = isinstance(at, list) and isinstance(step, int) and step < len(at)
        if inside:
            at = at[step]
        elif error["type"] != "missing" or step != loc[-1]:
            continue
        path.append(step)
    return path


def _shown(value: Any, pointer: str) -> str:
    """The value that was found, when it is short and no secret."""
    if "secret" in pointer or not isinstance(value, str | int | float | bool | None):
        return ""
    text = repr(value)
    return f"; found {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}"
