"""mkdocs hooks: the page of the API, and links that lead out of `docs/`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import Files

sys.path.insert(0, str(Path(__file__).parent))
import api_reference  # beside this file, which mkdocs loads by its path

REFERENCE = "<!-- reference:"
LINK = re.compile(r"\[([^\]\n]+)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The reference of the API where its place is marked. Links to sources become names: they work
    where the pages are read in the repository."""
    docs = Path(config.docs_dir).resolve()
    if REFERENCE in markdown:
        document = json.loads((docs / "openapi.json").read_text(encoding="utf-8"))
        start = markdown.index(REFERENCE)
        return f"{markdown[:start]}\n{api_reference.reference(document)}"
    here = (docs / page.file.src_uri).parent

    def shown(match: re.Match[str]) -> str:
        target = (here / match[2]).resolve()
        if target.is_relative_to(docs) or not target.exists():
            return match[0]  # a page of the site, or a broken link, which mkdocs reports
        return match[1]

    return LINK.sub(shown, markdown)
