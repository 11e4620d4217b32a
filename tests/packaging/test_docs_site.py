"""The documentation as pages: built strictly, complete, and nothing fetched from elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
    return folder


class Loaded(HTMLParser):
    """What a browser fetches by itself: scripts, style sheets, images, frames; not links."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.urls += [v for k in ("src", "srcset", "data", "poster") if (v := given.get(k))]
        if tag == "link" and (href := given.get("href")):
            self.urls.append(href)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        reader = Loaded()
        reader.feed(page.read_text())
        assert reader.urls
        assert [u for u in reader.urls if re.match(r"(https?:)?//", u)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_every_operation_and_schema_of_the_api_is_on_its_page(site: Path) -> None:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    page = (site / "api.html").read_text()
    operations = [
        o["operationId"]
        for item in document["paths"].values()
        for o in item.values()
        if isinstance(o, dict) and "operationId" in o
    ]
    assert len(operations) > 15
    assert [o for o in operations if f'id="{o}"' not in page] == []
    schemas = [f'id="schema-{name.lower()}"' for name in document["components"]["schemas"]]
    assert [s for s in schemas if s not in page] == []
    # Every type that is named leads to its description.
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets - set(re.findall(r'id="([^"]+)"', page)) == set()


def test_links_into_the_sources_become_names(site: Path) -> None:
    page = (site / "architecture" / "01-overview.html").read_text()
    assert "<code>app/receive.py</code>" in page
    assert 'app/receive.py"' not in page


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "api_reference", ROOT / "docs_site" / "api_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_api_page_of_a_small_document() -> None:
    ref = {"$ref": "#/components/schemas/Thing"}
    document = {
        "paths": {
            "/things/{id}": {
                "parameters": [
                    {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
                ],
                "get": {
                    "operationId": "get_thing",
                    "tags": ["jobs"],
                    "summary": "One | thing",
                    "responses": {
                        "200": {
                            "description": "It",
                            "content": {"application/json": {"schema": ref}},
                        }
                    },
                },
            }
        },
        "components": {
            "schemas": {
                "Thing": {
                    "required": ["size"],
                    "properties": {
                        "size": {"type": "number", "exclusiveMinimum": 0, "description": "a | b"},
                        "kind": {"enum": ["x", "y"], "default": "x"},
                        "next": {"anyOf": [ref, {"type": "null"}]},
                        "many": {"type": "array", "items": {"type": "integer"}},
                        "any": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                }
            }
        },
    }
    page = hooks().reference(document)
    for line in (
        "### GET /things/{id} { #get_thing }",
        "| `id` (required) | path | string |  |",
        "| 200 | `application/json` [Thing](#schema-thing) | It |",
        "### Thing { #schema-thing }",
        r"| `size` (required) | number &gt; 0 | a \| b |",
        "| `kind` | `x` or `y` | Default: `x` |",
        "| `next` | [Thing](#schema-thing) or null |  |",
        "| `many` | list of integer |  |",
        "| `any` | map to string |  |",
    ):
        assert line in page.splitlines(), line
