"""A template's layers, watched by forward passes alone, beside the module's own statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rankpress
from rankpress.loading.gathering import NoStatistics
from rankpress.names import Action, Reason, Sensitivity
from rankpress.schemas.statistics import StatisticsInfo
from tests.worker.pipelinekit import run
from worker.aware import graph
from worker.aware.graph import gather_by_runs
from worker.checkpoint import open_checkpoint
from worker.evaluation.template import load_architecture
from worker.evaluation.template.places import places_of
from worker.evaluation.template.session import Session
from worker.evaluation.weights import Weights

VOCABULARY, CLASSES, SAMPLES = 30, 5, 90


class Mixed(nn.Module):
    """Every kind of layer that is watched: table, convolutions, matrices of tokens and samples."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 12)
        self.tokens = nn.Linear(12, 16)
        self.line = nn.Conv1d(16, 14, 3, stride=2, padding=2, dilation=2)
        self.plane = nn.Conv2d(1, 6, (3, 2), padding=(1, 0))
        self.body = nn.Linear(6, 20, bias=False)
        self.head = nn.Linear(20, CLASSES)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(self.words(input_ids)).tanh() * attention_mask[..., None]
        plane = self.plane(self.line(tokens.mT).relu().unsqueeze(1)).tanh()
        answer: torch.Tensor = self.head(self.body(plane.mean(dim=(2, 3))).relu())
        return answer


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("mixed")
    torch.manual_seed(0)
    model = Mixed().eval()
    data = {
        "input_ids": torch.randint(VOCABULARY, (SAMPLES, 9)),
        "attention_mask": (torch.rand(SAMPLES, 9) < 0.8).long(),
    }
    save_file({k: v.detach() for k, v in model.state_dict().items()}, folder / "model")
    some = {key: rows[:2] for key, rows in data.items()}
    rankpress.export_template(model, some, folder / "template")
    with torch.inference_mode():
        targets = model(**data).argmax(dim=1)
    save_file({**data, "targets": targets}, folder / "validation")
    return {"model": model, "data": data, "folder": folder}


def gathered(
    model: Path, template: Path, batches: list[dict[str, torch.Tensor]],
    sensitivity: Sensitivity | None, **options: Any,
) -> tuple[dict[str, torch.Tensor], StatisticsInfo]:  # fmt: skip
    checkpoint = open_checkpoint((model,))
    architecture = load_architecture(template, checkpoint.tensors)
    names = frozenset(tensor.name for tensor in checkpoint.tensors)
    return gather_by_runs(
        architecture, Weights(checkpoint), batches,
        count=SAMPLES, names=names, sensitivity=sensitivity, device=torch.device("cpu"),
        **options,
    )  # fmt: skip


def batches_of(data: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    rows = len(next(iter(data.values())))
    return [
        {key: tensor[i : i + size] for key, tensor in data.items()} for i in range(0, rows, size)
    ]


@pytest.mark.parametrize("sensitivity", [None, *Sensitivity])
def test_a_templates_statistics_are_the_modules(
    mixed: dict[str, Any], sensitivity: Sensitivity | None, tmp_path: Path
) -> None:
    """Moments to rounding; of the sensitivities the trace, by noise."""
    folder = mixed["folder"]
    batches = batches_of(mixed["data"], 40)
    found, info = gathered(folder / "model", folder / "template", batches, sensitivity)
    rankpress.collect_statistics(
        mixed["model"], batches, tmp_path / "s", two_sided=sensitivity is not None,
        sensitivity=sensitivity or Sensitivity.OUTPUT,
    )  # fmt: skip
    expected = load_file(tmp_path / "s")
    assert found.keys() == expected.keys()
    others = [
        gathered(folder / "model", folder / "template", batches, sensitivity, seed=seed)[0]
        for seed in range(1, 5 if sensitivity else 1)
    ]
    for key, tensor in expected.items():
        if not key.endswith("/sensitivity"):
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)
            continue
        width = len(tensor)
        assert torch.equal(found[key], torch.eye(width).double() * found[key][0, 0])
        # One draw of 90 samples is off by up to a fifth.
        drawn = sum(float(one[key].trace()) for one in (found, *others)) / (1 + len(others))
        assert drawn == pytest.approx(float(tensor.trace()), rel=0.15)
    assert (info.samples, info.two_sided) == (SAMPLES, sensitivity is not None)
    assert info.exact is (None if sensitivity is None else False)
    again, _ = gathered(folder / "model", folder / "template", batches, sensitivity)
    assert all(torch.equal(tensor, again[key]) for key, tensor in found.items())


def test_some_samples_are_enough_for_the_sensitivities(
    mixed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spread over all of them; and moments are of all."""
    monkeypatch.setattr(graph, "SENSED", 32)
    runs: list[int] = []
    run_once = Session.run

    def counted(session: Session, outputs: list[str], inputs: Any) -> Any:
        runs.append(len(outputs))
        return run_once(session, outputs, inputs)

    monkeypatch.setattr(Session, "run", counted)
    folder, batches = mixed["folder"], batches_of(mixed["data"], 40)
    found, info = gathered(folder / "model", folder / "template", batches, Sensitivity.OUTPUT)
    assert (runs.count(1), len(runs)) == (6 * 6, 6 * 6 + 12)  # 12 pieces, each second one sensed
    rankpress.collect_statistics(mixed["model"], batches, tmp_path / "s", two_sided=True)
    expected = load_file(tmp_path / "s")
    torch.testing.assert_close(
        found["head.weight/covariance"], expected["head.weight/covariance"], rtol=1e-4, atol=1e-5
    )
    trace = float(expected["head.weight/sensitivity"].trace())
    assert float(found["head.weight/sensitivity"].trace()) == pytest.approx(trace, rel=0.3)
    assert info.samples == SAMPLES


def test_what_pads_a_fixed_batch_is_not_seen(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    rows = torch.randn(20, 6)
    save_file(model.state_dict(), tmp_path / "model")
    rankpress.export_template(model, rows[:8], tmp_path / "t", dynamic_batch=False)
    model_graph = onnx.load(tmp_path / "t", load_external_data=False).graph
    (name,) = (value.name for value in model_graph.input)
    found, info = gathered(
        tmp_path / "model", tmp_path / "t", batches_of({name: rows}, 8), Sensitivity.OUTPUT
    )
    rankpress.collect_statistics(model, [rows], tmp_path / "s", two_sided=True)
    for key, tensor in load_file(tmp_path / "s").items():
        if not key.endswith("/sensitivity"):
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-6)
    assert (info.samples, info.vectors) == (20, {"0.weight": 20, "2.weight": 20})
    assert float(found["2.weight/sensitivity"].trace()) == pytest.approx(3, rel=0.3)


class Odd(nn.Module):
    """Weights whose inputs are not told by one node: shared, grouped, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(8, 8)
        self.grouped = nn.Conv1d(8, 8, 1, groups=2)
        self.transposed = nn.Parameter(torch.randn(8, 8))
        self.plain = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.shared(x).relu())
        x = self.grouped(x.unsqueeze(2)).squeeze(2)
        answer: torch.Tensor = self.plain(x @ self.transposed)
        return answer


def test_a_weight_that_no_single_layer_applies_is_left_out(tmp_path: Path) -> None:
    model = Odd().eval()
    save_file({k: v.detach() for k, v in model.state_dict().items()}, tmp_path / "model")
    rankpress.export_template(model, torch.randn(2, 8), tmp_path / "t")
    architecture = load_architecture(tmp_path / "t", open_checkpoint((tmp_path / "model",)).tensors)
    assert places_of(architecture.model, architecture.binding).keys() == {"plain.weight"}


def test_a_job_with_a_template_is_calibrated_here(mixed: dict[str, Any], tmp_path: Path) -> None:
    folder = mixed["folder"]
    lost = {}
    for aware in ("none", "inputs", "two_sided"):
        (here := tmp_path / aware).mkdir()
        (done,) = run(
            here, folder / "model",
            files={"validation": folder / "validation", "template": folder / "template"},
            evaluation={
                "validation": "v", "architecture": {"kind": "template", "template": "t"},
            },
            rule="budget", budget={"parameters": 0.8}, aware=aware,
        )  # fmt: skip
        assert done.layers["tokens.weight"].reason is not Reason.NO_STATISTICS
        assert any(layer.action is Action.FACTORISED for layer in done.layers.values())
        assert sum(t.numel() for t in load_file(done.path).values()) <= 0.8 * sum(
            p.numel() for p in mixed["model"].parameters()
        )
        assert done.evaluation is not None
        assert any("every fifth" in note for note in done.evaluation.notes) is (aware != "none")
        by_differences = any("forward differences" in note for note in done.notes)
        assert by_differences is (aware == "two_sided")
        (loss,) = [m for m in done.evaluation.metrics if m.name == "cross_entropy"]
        lost[aware] = abs(loss.difference or 0.0)
    assert lost["two_sided"] < lost["none"]


def test_a_template_without_layers_is_said(tmp_path: Path) -> None:
    save_file({"w": torch.randn(4, 4)}, tmp_path / "model")

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.w

    rankpress.export_template(Scaled(), torch.randn(2, 4), tmp_path / "t")
    with pytest.raises(NoStatistics, match="no weight as a layer"):
        gathered(tmp_path / "model", tmp_path / "t", [{"x": torch.randn(2, 4)}], None)
