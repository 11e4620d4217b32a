"""The page on the report describes every field of its schema, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from rankpress.names import Reason
from rankpress.reporting import words
from rankpress.schemas.report import RankReport

PAGE = Path(__file__).resolve().parents[2] / "docs" / "report.md"


def models(model: type[BaseModel], seen: dict[str, type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """Every model that a field of `model` leads to, itself included, by name."""
    if model.__name__ in seen:
        return seen
    seen[model.__name__] = model
    for field in model.model_fields.values():
        for inner in inside(field.annotation):
            models(inner, seen)
    return seen


def inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from inside(argument)


MODELS = models(RankReport, {})


def section(name: str) -> list[str]:
    """The names in the first column of the table below a heading."""
    found = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", PAGE.read_text("utf-8"), re.M | re.S)
    assert found is not None, f"docs/report.md has no section {name}"
    rows = re.findall(r"^\| (`[^|]+) \| (.+) \|$", found[1], re.M)
    assert all(meaning.strip() for _, meaning in rows)
    return [field for cell, _ in rows for field in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("name", MODELS)
def test_every_field_is_described_once(name: str) -> None:
    assert sorted(section(name)) == sorted(MODELS[name].model_fields)


def test_every_section_is_of_the_schema() -> None:
    headings = set(re.findall(r"^### (\w+)$", PAGE.read_text("utf-8"), re.M))
    assert headings == {*MODELS, "Reasons"}


def test_every_reason_is_described_in_its_words() -> None:
    assert section("Reasons") == [reason.value for reason in Reason]
    for reason in Reason:
        assert words.REASONS[reason][1:] in PAGE.read_text("utf-8")
