"""A row per tensor, as CSV (RFC 4180, UTF-8, with a header)."""

from __future__ import annotations

import csv
import io
import json

from rankpress.schemas.report import LayerReport, RankReport

# A spreadsheet takes a cell that begins so for a formula (OWASP, CSV injection). The full-width
# forms are read alike in East Asian settings.
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
GUARD = "'"


def report_csv(report: RankReport) -> str:
    """The columns are the fields of `LayerReport`, in its order; empty means null.

    `shape` is '512x784', `factor_keys` a JSON list. A text that a spreadsheet could take for a
    formula, or that begins with an apostrophe, has an apostrophe put before it: taking one leading
    apostrophe off gives back the text.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    columns = tuple(LayerReport.model_fields)
    writer.writerow(columns)
    for layer in report.layers:
        writer.writerow([_cell(column, getattr(layer, column)) for column in columns])
    return out.getvalue()


def _cell(column: str, value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return repr(value)
        case int():
            return str(value)
        case tuple():
            if column == "shape":
                return "x".join(map(str, value))
            return json.dumps(value, ensure_ascii=False) if value else ""
    return guarded(str(value))


def guarded(text: str) -> str:
    """`text` as a cell that no spreadsheet evaluates. Leading blanks are skipped by some."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")  # many readers stop at a NUL
    hazardous = text.startswith(GUARD) or text.lstrip(" ").startswith(FORMULA_STARTS)
    return GUARD + text if hazardous else text
