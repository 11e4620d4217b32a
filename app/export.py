"""`python -m app.export FILE`: writes the OpenAPI document, which is kept in the repository."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from app.main import create_app
from rankpress.service.settings import Settings


def text() -> str:
    """The document by the default settings, whatever the environment says."""
    document = create_app(Settings.model_construct()).openapi()
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
