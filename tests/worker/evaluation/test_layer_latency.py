"""Which layers are slow: every architecture tells each factorised layer's time, and the report
names those that take longer than before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import rankpress
from rankpress.schemas.report import Latency, LayerLatency
from tests.worker.evaluation.evaluation_helpers import (
    CPU,
    MemoryCheckpoint,
    request,
    run,
    truncated,
    write_npz,
)
from worker.evaluation import check_evaluation, layer_latency
from worker.evaluation.factory import registry
from worker.evaluation.weights import Weights

CLASSES = 5


class Mixed(nn.Module):
    """A convolution, a linear layer over tokens (Transpose and MatMul in the graph) and one over
    samples (Gemm); an LSTM holds two weights in one module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(6, 16, 3, padding=1)
        self.tokens = nn.Linear(16, 24)
        self.lstm = nn.LSTM(24, 20, batch_first=True)
        self.head = nn.Linear(20, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.tokens(self.conv(x).transpose(1, 2)))
        return self.head(self.lstm(hidden)[0].mean(dim=1))


RANKS = {"tokens.weight": 3, "head.weight": 2, "lstm.weight_hh_l0": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_npz(
        tmp_path / "v.npz", x=torch.randn(8, 6, 9), targets=torch.zeros(8, dtype=torch.int64)
    )


def asked(monkeypatch: pytest.MonkeyPatch, kind: str) -> Any:
    if kind == "template":
        return request(architecture={"kind": "template", "template": "t"})
    point = SimpleNamespace(name="mixed", load=lambda: Mixed)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    return request(architecture={"kind": "factory", "name": "mixed"})


@pytest.mark.parametrize("kind", ["template", "factory"])
def test_each_layer_has_its_own_time(
    kind: str, monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path
) -> None:
    model = Mixed().eval()
    rankpress.export_template(model, {"x": torch.randn(2, 6, 9)}, tmp_path / "t")
    dense = MemoryCheckpoint(model.state_dict())
    plan = check_evaluation(asked(monkeypatch, kind), dense.tensors, data, tmp_path / "t")
    small, manifest = truncated(model.state_dict(), RANKS)
    weights = Weights(MemoryCheckpoint(small), manifest)
    inputs = {"x": torch.randn(8, 6, 9)}
    found = layer_latency.measure_layers(plan.architecture, Weights(dense), weights, inputs, CPU)
    names = {layer.name for layer in found}
    # The LSTM's one operator holds both its weights: a module's time is not one weight's.
    assert names - {"lstm.weight_hh_l0"} == {"tokens.weight", "head.weight"}
    for layer in found:
        assert layer.dense_seconds > 0
        assert layer.compressed_seconds > 0
        assert layer.speedup == pytest.approx(layer.dense_seconds / layer.compressed_seconds)
    gains = [layer.dense_seconds - layer.compressed_seconds for layer in found]
    assert gains == sorted(gains)


def test_a_chain_counts_both_factors(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, CLASSES))
    path = write_npz(
        tmp_path / "v.npz", inputs=torch.randn(9, 20), targets=torch.zeros(9, dtype=torch.int64)
    )
    dense = MemoryCheckpoint(model.state_dict())
    plan = check_evaluation(request(), dense.tensors, path)
    small, manifest = truncated(model.state_dict(), {"0.weight": 2})
    weights = Weights(MemoryCheckpoint(small), manifest)
    timer = plan.architecture.layer_timer(
        weights, weights.factorised, {"inputs": torch.randn(9, 20)}, CPU
    )
    calls: list[int] = []
    for _ in range(3):
        timer.run()
        calls.append(len(timer._runs))
    assert calls == [1, 2, 3]
    assert list(timer.seconds()) == ["0.weight"]


def latency(size: int, speedup: float) -> Latency:
    return Latency(
        batch_size=size,
        dense_seconds=speedup,
        compressed_seconds=1.0,
        dense_spread_seconds=0.0,
        compressed_spread_seconds=0.0,
        speedup=speedup,
        repeats=9,
        threads=1,
    )


def layer(name: str, speedup: float) -> LayerLatency:
    return LayerLatency(name=name, dense_seconds=speedup, compressed_seconds=1.0, speedup=speedup)


def test_only_a_batch_that_is_not_faster_is_looked_into() -> None:
    assert layer_latency.slow_batch([]) is None
    assert layer_latency.slow_batch([latency(1, 1.2), latency(256, 2.0)]) is None
    assert layer_latency.slow_batch([latency(1, 0.8), latency(256, 2.0)]) == 1
    assert layer_latency.slow_batch([latency(1, 0.8), latency(256, 1.0)]) == 256


def test_the_sentence_names_the_slow_layers() -> None:
    layers = [layer(f"l{i}", 0.5 + i / 10) for i in range(8)]
    text = layer_latency.told(layers, 32)
    assert text.startswith(
        "Not faster at a batch size of 32: as two factors, l0 (0.50x), l1 (0.60x)"
    )
    assert "l4 (0.90x) and 1 more take longer than before" in text
    assert "no factorised layer takes longer" in layer_latency.told(layers[6:], 32)


@pytest.mark.parametrize("slow", [False, True])
def test_the_report_says_so_where_it_is_not_faster(
    slow: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether it is faster depends on the machine, so that is given here."""
    from worker.evaluation import score

    def measured(*_: object) -> tuple[tuple[Latency, ...], tuple[str, ...]]:
        return (latency(4, 0.5 if slow else 2.0),), ("as measured",)

    def layers(*_: object) -> tuple[LayerLatency, ...]:
        return (layer("0.weight", 0.5),)

    monkeypatch.setattr(score, "measure_latency", measured)
    monkeypatch.setattr(layer_latency, "measure_layers", layers)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, CLASSES))
    path = write_npz(
        tmp_path / "v.npz", inputs=torch.randn(9, 20), targets=torch.zeros(9, dtype=torch.int64)
    )
    report, _, _ = run(request(), model.state_dict(), {"0.weight": 2}, path)
    told = [note for note in report.notes if note.startswith("Not faster")]
    assert (len(report.layer_latency), len(told)) == ((1, 1) if slow else (0, 0))
    assert "as measured" in report.notes


def test_no_time_is_lost_without_factors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from worker.evaluation import score

    def measured(*_: object) -> tuple[tuple[Latency, ...], tuple[str, ...]]:
        return (latency(4, 0.99),), ()

    def never(*_: Mapping[str, object]) -> None:
        raise AssertionError("nothing was factorised")

    monkeypatch.setattr(score, "measure_latency", measured)
    monkeypatch.setattr(layer_latency, "measure_layers", never)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, CLASSES))
    path = write_npz(
        tmp_path / "v.npz", inputs=torch.randn(9, 20), targets=torch.zeros(9, dtype=torch.int64)
    )
    report, _, _ = run(request(), model.state_dict(), {}, path)
    assert report.layer_latency == ()
