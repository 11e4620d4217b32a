"""`rankpress report` in its forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rankpress.errors import NotFound
from rankpress.reporting import report_csv, report_html, report_markdown
from tests.rankpress.cli.test_cli import cli
from tests.rankpress.client.fakeservice import problem, running
from tests.rankpress.reporting import samples


def answering(*, spectrum: bool = True) -> Any:
    missing = problem(NotFound("no longer stored"))

    def answer(reply: Any, seen: Any) -> None:
        if not seen.path.endswith("/spectrum"):
            reply.send_model(samples.report())
        elif spectrum:
            reply.send_model(samples.spectrum())
        else:
            missing(reply, seen)

    return answer


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--html", report_html(samples.report(), samples.spectrum())),
        ("--markdown", report_markdown(samples.report())),
        ("--csv", report_csv(samples.report())),
        ("--json", samples.report().model_dump_json(indent=2) + "\n"),
    ],
)
def test_forms_to_a_file_and_to_stdout(option: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "report"
    with running(answering()) as service:
        written = cli("report", "j1", option, "-o", str(path), url=service.url)
        printed = cli("report", "j1", option, url=service.url)
    assert [(r.returncode, r.stderr) for r in (written, printed)] == [(0, ""), (0, "")]
    assert path.read_bytes() == expected.encode()
    assert printed.stdout == expected.replace("\r\n", "\n")  # text mode of the test's own pipe


def test_html_without_a_spectrum_says_so() -> None:
    with running(answering(spectrum=False)) as service:
        done = cli("report", "j1", "--html", url=service.url)
    assert done.stdout == report_html(samples.report(), None)


def test_one_form_at_a_time() -> None:
    done = cli("report", "j1", "--html", "--csv")
    assert done.returncode == 2
    assert "one of --json, --html, --markdown and --csv" in done.stderr
