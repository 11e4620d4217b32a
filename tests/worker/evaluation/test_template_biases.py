"""A compressed layer may have a bias that the original lacked: the graph gets it too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import rankpress
from rankpress.errors import EvaluationMismatch
from tests.worker.evaluation.evaluation_helpers import (
    CPU,
    SHA,
    MemoryCheckpoint,
    request,
    truncated,
    values,
    write_npz,
)
from worker.evaluation import check_evaluation, evaluate

CLASSES = 5


class Bare(nn.Module):
    """No layer has a bias; `mixed` is the right factor of a product, as it is stored."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(6, 16, 3, padding=1, bias=False)
        self.tokens = nn.Linear(16, 20, bias=False)
        self.mixed = nn.Parameter(torch.randn(20, 12) / 4)
        self.head = nn.Linear(12, CLASSES, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.tokens(self.conv(x).transpose(1, 2)))
        return self.head((hidden @ self.mixed).mean(dim=1))


class Biased(nn.Module):
    """The same with a bias everywhere: what the compressed file stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 16, 3, padding=1)
        self.tokens = nn.Linear(16, 20)
        self.mixed = nn.Linear(20, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.tokens(self.conv(x).transpose(1, 2)))
        return self.head(self.mixed(hidden).mean(dim=1))


RANKS = {"conv.weight": 4, "tokens.weight": 4, "mixed": 3, "head.weight": 2}


def test_new_biases_are_scored(tmp_path: Path) -> None:
    model = Bare().eval()
    inputs, targets = torch.randn(30, 6, 9), torch.randint(0, CLASSES, (30,))
    rankpress.export_template(model, {"x": inputs[:2]}, tmp_path / "t")
    data = write_npz(tmp_path / "v.npz", x=inputs, targets=targets)
    dense = MemoryCheckpoint(model.state_dict())
    asked = request(architecture={"kind": "template", "template": "t"})
    plan = check_evaluation(asked, dense.tensors, data, tmp_path / "t")
    small, manifest = truncated(model.state_dict(), RANKS)
    reference = Biased()
    layers = []
    for layer in manifest.layers:
        stem = layer.name.removesuffix(".weight")
        module = reference.get_submodule(stem)
        key = f"{stem}.1.bias"
        small[key] = torch.randn(module.bias.shape)
        module.bias.data = small[key]
        product = (small[layer.left].flatten(1) @ small[layer.right].flatten(1)).reshape(
            layer.shape
        )
        module.weight.data = product.T if layer.name == "mixed" else product
        layers.append(layer.model_copy(update={"bias": (f"{stem}.bias", key)}))
    manifest = manifest.model_copy(update={"layers": tuple(layers)})
    report = evaluate(
        plan, asked, dense, MemoryCheckpoint(small), manifest, data, SHA, CPU, lambda *_: None
    )
    with torch.inference_mode():
        logits = [m.eval()(inputs).double() for m in (model, reference)]
    wanted = [float(functional.cross_entropy(x, targets)) for x in logits]
    assert values(report)["cross_entropy"] == pytest.approx(wanted, abs=1e-5)
    assert wanted[0] != pytest.approx(wanted[1], abs=1e-2)
    # The factored graph answers as the scored one, else there would be no latency.
    assert report.latency
    assert report.flops_per_sample_compressed < report.flops_per_sample_dense


def test_a_use_that_takes_no_bias_is_refused(tmp_path: Path) -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 16)
            self.head = nn.Linear(16, CLASSES)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids).mean(dim=1))

    model = Embedded().eval()
    ids = torch.randint(0, 30, (8, 4))
    rankpress.export_template(model, {"ids": ids[:2]}, tmp_path / "t")
    data = write_npz(tmp_path / "v.npz", ids=ids, targets=torch.zeros(8, dtype=torch.int64))
    dense = MemoryCheckpoint(model.state_dict())
    asked = request(architecture={"kind": "template", "template": "t"})
    plan = check_evaluation(asked, dense.tensors, data, tmp_path / "t")
    small, manifest = truncated(model.state_dict(), {"embed.weight": 3})
    small["embed.1.bias"] = torch.zeros(16)
    layer = manifest.layers[0].model_copy(update={"bias": ("embed.bias", "embed.1.bias")})
    manifest = manifest.model_copy(update={"layers": (layer,)})
    with pytest.raises(EvaluationMismatch, match="by 'Gather', to which none can be added"):
        evaluate(
            plan, asked, dense, MemoryCheckpoint(small), manifest, data, SHA, CPU, lambda *_: None
        )
