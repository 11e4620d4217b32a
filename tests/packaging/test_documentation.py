"""The pages that list things list all of them, as they are."""

import re
from pathlib import Path

import pytest

from rankpress import errors
from rankpress.errors import TYPE_PREFIX, RankpressError
from rankpress.service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ERRORS = {
    c.slug: c
    for c in vars(errors).values()
    if isinstance(c, type) and issubclass(c, RankpressError) and c is not RankpressError
}


def rows(page: str) -> dict[str, list[str]]:
    """The cells of a page's tables by the name in the first, without back quotes."""
    found = re.findall(r"^\| `([^`]+)` \|(.*)\|$", (DOCS / page).read_text(), re.M)
    return {name: [cell.strip().strip("`") for cell in rest.split(" | ")] for name, rest in found}


def test_problems_page_lists_exactly_the_errors() -> None:
    assert set(rows("problems.md")) == set(ERRORS)


@pytest.mark.parametrize("slug", sorted(ERRORS))
def test_problems_page_has_status_and_class(slug: str) -> None:
    status, name, meaning = rows("problems.md")[slug]
    assert (int(status), name) == (ERRORS[slug].status, ERRORS[slug].__name__)
    assert meaning


def test_problems_page_names_the_type_prefix() -> None:
    assert TYPE_PREFIX in (DOCS / "problems.md").read_text()


def test_configuration_page_lists_exactly_the_settings() -> None:
    assert set(rows("configuration.md")) == {
        f"RANKPRESS_{name.upper()}" for name in Settings.model_fields
    }


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_configuration_page_has_the_default(name: str) -> None:
    default, meaning = rows("configuration.md")[f"RANKPRESS_{name.upper()}"]
    assert default == str(Settings.model_fields[name].default)
    assert meaning


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert missing == []


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.M), target
