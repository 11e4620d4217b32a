"""The certificate of real jobs, recomputed from the files and the report alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rankpress import Client
from rankpress.loading.verifying import verify
from rankpress.names import Action
from tests.end_to_end.processes import ROOT, Service

TWO_SIDED = {"rule": "budget", "budget": {"parameters": 0.3}, "aware": "two_sided"}


@pytest.mark.parametrize(
    ("fields", "suffix"),
    [
        ({"rule": "ratio", "threshold": 0.4}, "safetensors"),
        ({"rule": "ratio", "threshold": 0.4}, "pt"),
        ({"rule": "energy", "threshold": 0.8, "output": {"layout": "dense"}}, "safetensors"),
        (TWO_SIDED, "safetensors"),
        ({"rule": "ratio", "threshold": 0.9, "min_speedup": 1000}, "safetensors"),
    ],
    ids=["factors", "pt", "dense", "two-sided", "nothing"],
)
def test_a_job_is_verified_without_the_service(
    sqlite_service: Service,
    example_model: Path,
    example_validation: Path,
    tmp_path: Path,
    fields: dict[str, Any],
    suffix: str,
) -> None:
    model, out = tmp_path / f"net.{suffix}", tmp_path / f"small.{suffix}"
    if suffix == "pt":
        torch.save(load_file(example_model), model)
    else:
        model.write_bytes(example_model.read_bytes())
    with Client(sqlite_service.url) as client:
        done = client.compress(
            model,
            out=out,
            validation=example_validation,
            evaluation={"latency": False},
            timeout=300,
            **fields,
        )
    report = done.report
    factorised = [x for x in report.layers if x.action is Action.FACTORISED]
    if "min_speedup" in fields:
        assert not factorised
        assert out.read_bytes() == model.read_bytes()  # the input itself: no manifest in it
        return
    assert factorised
    found = verify(out, model, [model], report)
    assert found.problems == ()
    assert len(found.links) == 3
    assert [layer.name for layer in found.layers] == [layer.name for layer in factorised]
    for layer, told in zip(found.layers, factorised, strict=True):
        assert layer.relative_error == pytest.approx(told.relative_error, rel=1e-3)
        if "aware" in fields:
            assert told.optimal_relative_error is None
            assert layer.relative_error > layer.optimal_relative_error
        else:
            assert layer.optimal_relative_error == pytest.approx(
                told.optimal_relative_error, rel=1e-3
            )
            assert told.relative_error == pytest.approx(told.optimal_relative_error, rel=1e-3)
    assert report.evaluation is not None
    assert report.evaluation.validation_sha256 is not None
    (tmp_path / "report.json").write_text(report.model_dump_json())
    command = ["verify", str(out), "--against", str(model), "--report"]
    checked = subprocess.run(
        [sys.executable, "-m", "rankpress.cli", *command, str(tmp_path / "report.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.endswith("\nverified\n")
