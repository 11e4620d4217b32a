"""CSV, Markdown and HTML: as agreed, whatever the tensors are called."""

from __future__ import annotations

import csv
import html
import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpress.names import Action, Reason, Rule, Verdict
from rankpress.reporting import report_csv, report_html, report_markdown, words
from rankpress.reporting.csv_table import GUARD, guarded
from rankpress.reporting.html import policy, style_sheet
from rankpress.reporting.markdown import code, prose
from rankpress.schemas.report import FrontierPoint, LayerReport
from rankpress.schemas.request import Budget
from tests.rankpress.reporting import samples

HOSTILE = (
    "<script>alert(1)</script>",
    "=cmd|'/C calc'!A0",
    "＝1+1",
    " +1",
    "@SUM(A1)",
    "-2+3",
    '"quoted", comma',
    "a|b`c`|d",
    "](javascript:alert(1))",
    "<!-- --> ![x](http://evil.example/x.png)",
    "' onload='alert(1)",
    "line\r\nbreak",
    "right\u202eto left",
    "nul\0",
    "重み.層",
    "@everyone #1 www.evil.example",
    "**bold** _it_",
    "",
)


@pytest.mark.parametrize("name", ["report.csv", "report.md", "report.html"])
def test_golden(name: str) -> None:
    expected = (samples.GOLDEN / name).read_text("utf-8") if name != "report.csv" else None
    if expected is None:  # read_text would fold the line ends
        expected = (samples.GOLDEN / name).read_bytes().decode()
    assert samples.rendered()[name] == expected


def hostile_report():
    layers = tuple(samples.factorised(name, 8, 6, 2) for name in HOSTILE)
    note = "<img src=x onerror=alert(1)>"
    return samples.report(layers=layers, notes=(note,), protected_output=HOSTILE[0])


class Elements(HTMLParser):
    """What a browser would make of it: element names, attributes, text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_holds_hostile_names_as_text_alone() -> None:
    page = Elements()
    page.feed(report_html(hostile_report(), samples.spectrum()))
    assert not {"script", "img", "iframe", "object", "link", "a"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    text = "".join(page.text)
    for name in HOSTILE:
        assert words.visible(name) in text
    assert "\u202e" not in text


def test_html_needs_nothing_from_elsewhere() -> None:
    text = report_html(samples.report(), samples.spectrum())
    assert not re.search(r"(src|href|url)\s*[=(]", text)
    assert "http" not in text.replace("http-equiv", "")
    assert html.escape(policy(style_sheet())) in text
    assert "'unsafe-inline'" not in policy(style_sheet())


def test_html_says_when_there_are_no_spectra() -> None:
    assert "not at hand" in report_html(samples.report(), None)
    assert '<svg class="spectrum"' not in report_html(samples.report(), None)


def test_html_plots_each_spectrum_with_its_cut() -> None:
    text = report_html(samples.report(), samples.spectrum())
    assert text.count('<svg class="spectrum"') == 2
    assert text.count('class="cut"') == 1  # net.2.weight stayed dense
    assert 'x1="92.4"' in text  # 7 of 20 values of a plot 264 wide


def test_csv_gives_every_name_back() -> None:
    rows = list(csv.DictReader(io.StringIO(report_csv(hostile_report()), newline="")))
    assert list(rows[0]) == list(LayerReport.model_fields)
    found = [row["name"][1:] if row["name"].startswith(GUARD) else row["name"] for row in rows]
    assert found == [name.replace("\0", "\N{REPLACEMENT CHARACTER}") for name in HOSTILE]


def test_csv_numbers_round_trip_and_null_is_empty() -> None:
    report = samples.report()
    rows = list(csv.DictReader(io.StringIO(report_csv(report), newline="")))
    assert float(rows[0]["energy_kept"]) == report.layers[0].energy_kept
    assert rows[0]["shape"] == "30x20"
    assert rows[1]["rank"] == ""


def test_csv_lines_end_as_rfc_4180_says() -> None:
    text = report_csv(samples.report())
    assert text.endswith("\r\n")
    assert "\n" not in text.replace("\r\n", "")


@given(st.text())
def test_no_cell_begins_as_a_formula(text: str) -> None:
    cell = guarded(text)
    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋"))
    back = cell[1:] if cell.startswith(GUARD) else cell
    assert back == text.replace("\0", "\N{REPLACEMENT CHARACTER}")


@given(st.text())
def test_markdown_text_stays_text(text: str) -> None:
    shown = prose(text)
    assert not re.search(r"[<>|`*_\[\]\\@~!()\n\r]", shown)
    assert html.unescape(shown) == words.visible(text)


def test_markdown_rows_stay_rows() -> None:
    lines = report_markdown(hostile_report()).splitlines()
    table = [line for line in lines if line.startswith("| ") and " of 6 |" in line]
    assert len(table) == len(HOSTILE)
    assert {line.count("|") for line in table} == {8}
    assert "<script" not in "\n".join(lines)


def test_markdown_shows_plain_names_plainly() -> None:
    assert code("encoder.layer_0.weight") == "`encoder.layer_0.weight`"
    assert code("a`b") == "<code>a&#96;b</code>"


def test_markdown_folds_what_is_long() -> None:
    layers = tuple(samples.factorised(f"l{i}", 8, 6, 2) for i in range(400))
    text = report_markdown(samples.report(layers=layers))
    assert "<details><summary>200 more layers" in text
    assert "188 more layers are in the report itself" in text
    assert len(text) < 65_536


def test_every_name_of_the_wire_has_words() -> None:
    assert set(words.ACTIONS) == set(Action)
    assert set(words.REASONS) == set(Reason)
    assert set(words.RULES) == set(Rule)
    assert set(words.VERDICTS) == set(Verdict)


def test_a_report_without_evaluation_or_threshold() -> None:
    report = samples.report(
        evaluation=None, threshold=None, rule=Rule.BUDGET, flops_per_sample_before=None
    )
    assert "Evaluation" not in report_html(report)
    assert "τ" not in report_markdown(report)


def test_a_frontier_is_shown_point_by_point() -> None:
    points = tuple(
        FrontierPoint(
            index=i,
            rule=Rule.ENTROPY if i < 2 else Rule.BUDGET,
            threshold=(0.8, 0.9, None)[i],
            budget=Budget(parameters=0.4) if i == 2 else None,
            ranks={},
            parameters_after=846 * (i + 1),
            bytes_after=1024 * (i + 1),
            output_sha256="ab" * 32,
            metrics=samples.evaluation().metrics,
            verdict=Verdict.WITHIN,
        )
        for i in range(3)
    )
    report = samples.report(frontier=points, result=1)
    text = report_html(report)
    assert "<th scope='row'>1 *</th>" in text
    for cell in ("846 (50.0 %)", "2.0 KiB", "budget of the whole model, 0.4 of the parameters"):
        assert f"<td>{cell}</td>" in text
    assert "accuracy 89.15 %, -0.20 points [-0.61, +0.18]" in text
    table = report_markdown(report).partition("**Frontier**")[2].splitlines()
    assert sum(line.startswith("| 1 &#42; |") for line in table) == 1
    assert "Frontier" not in report_html(samples.report())


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert words.size(count) == text
