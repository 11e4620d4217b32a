"""`rankpress verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.rankpress.cli.test_cli import cli
from tests.rankpress.loading.test_verifying import Files

NOWHERE = "http://127.0.0.1:9"  # never asked


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_right_file(files: Files, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    for document in (files.report().model_dump(mode="json"), {"report": files.report()}):
        report.write_text(json.dumps(document, default=lambda r: r.model_dump(mode="json")))
        command = ("verify", str(files.file), "--against", str(files.original), "--report")
        done = cli(*command, str(report), url=NOWHERE)
        assert (done.returncode, done.stderr) == (0, "")
        assert "fc.weight" in done.stdout
        assert "5 other tensors are the original's, bit for bit" in done.stdout
        assert "the file is the job's output: " in done.stdout
        assert done.stdout.endswith("\nverified\n")


def test_a_wrong_file(files: Files) -> None:
    files.change("steps", torch.tensor(8))
    done = cli("verify", str(files.file), "--against", str(files.original), url=NOWHERE)
    assert done.returncode == 1
    assert "wrong: steps: it was not factorised, and differs" in done.stdout
    assert done.stdout.endswith("\nnot verified\n")
    command = ("verify", str(files.file), "--against", str(files.original), "--json")
    found = json.loads(cli(*command, url=NOWHERE).stdout)
    assert found["ok"] is False
    assert [layer["rank"] for layer in found["layers"]] == [3, 4, 5, 2]


def test_what_is_no_file_or_no_report(files: Files, tmp_path: Path) -> None:
    original, file = str(files.original), str(files.file)
    missing = cli("verify", file, "--against", str(tmp_path / "none"), url=NOWHERE)
    assert missing.returncode == 1
    plain = cli("verify", original, "--against", original, url=NOWHERE)
    assert plain.returncode == 1
    assert "holds no Rankpress manifest" in plain.stderr
    wrong = cli("verify", file, "--against", original, "--report", original, url=NOWHERE)
    assert wrong.returncode == 2
    assert "is no report as JSON" in wrong.stderr
