"""A gate for CI: compresses a model and fails when it became worse or not smaller enough.

    python accuracy_gate.py model.safetensors validation.safetensors \
        --threshold 0.8 --max-drop 0.01 --max-share 0.5 --summary "$GITHUB_STEP_SUMMARY"

It is strict: the whole 95 % interval of the loss must lie within --max-drop, so too few samples do
not pass. Exit code 0 passed, 1 not passed, 2 the service refused. Needs `pip install rankpress`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rankpress import Client
from rankpress.errors import RankpressError
from rankpress.reporting import report_markdown


def main() -> int:
    parser = argparse.ArgumentParser(description="Compress, and fail when the model got worse.")
    parser.add_argument("model", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--threshold", type=float, default=0.9, help="tau in (0, 1]")
    parser.add_argument(
        "--max-drop", type=float, default=0.01, help="of the accuracy, 0.01 = 1 point"
    )
    parser.add_argument("--max-share", type=float, default=1.0, help="of the file's bytes")
    parser.add_argument("--output", type=Path, help="the compressed file")
    parser.add_argument("--summary", type=Path, help="Markdown is added to this file")
    options = parser.parse_args()
    url = os.environ.get("RANKPRESS_URL", "http://127.0.0.1:8000")
    try:
        with Client(url, api_key=os.environ.get("RANKPRESS_API_KEY")) as client:
            report = client.compress(
                options.model,
                threshold=options.threshold,
                validation=options.validation,
                out=options.output,
                evaluation={"max_drop": {"accuracy": options.max_drop}},
            ).report
    except RankpressError as error:
        sys.stderr.write(f"{error.title}: {error.detail}\n")
        return 2
    share = report.bytes_after / report.bytes_before
    verdict = report.evaluation.verdict if report.evaluation else None
    reasons = []
    if verdict != "within":
        reasons.append(f"accuracy: {verdict}, allowed is a drop of {options.max_drop:g}")
    if share > options.max_share:
        reasons.append(f"size: {share:.1%} of the original, allowed is {options.max_share:.1%}")
    outcome = "Gate: not passed: " + "; ".join(reasons) if reasons else "Gate: passed"
    if options.summary is not None:
        with options.summary.open("a", encoding="utf-8") as file:
            file.write(f"{report_markdown(report)}\n{outcome}\n")
    print(outcome)
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
