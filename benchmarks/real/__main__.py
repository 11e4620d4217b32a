"""Published and trained models through the running service; writes docs/real-models.md.

python -m benchmarks.real
python -m benchmarks.real --models lite0 --out page.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.real import images, lite0, spam
from benchmarks.real.page import page
from benchmarks.real.scored import Row, run
from benchmarks.reproduce.data import ROOT
from benchmarks.reproduce.service import service
from rankpress.client import Client

MODELS = ("images", "lite0", "minilm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "real-models.md")
    parser.add_argument("--busy", action="store_true", help="tell no latencies: others work here")
    options = parser.parse_args()
    rows: list[Row] = []
    with service() as url, Client(url) as client:
        if "images" in options.models:
            for subject in images.subjects():
                rows += run(client, subject)
        if "lite0" in options.models:
            rows += run(client, lite0.subject())
        if "minilm" in options.models:
            for subject in spam.subjects():
                rows += run(client, subject)
    options.out.write_text(page(rows, busy=options.busy), encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
