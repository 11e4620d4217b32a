"""Architectures whose layers the service watches itself: a module made by a factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rankpress
from rankpress.loading import load_compressed
from rankpress.names import Action, Reason
from tests.worker.pipelinekit import run
from worker.aware.watchable import layers_of
from worker.evaluation.factory import registry
from worker.tensors import StoredTensor, dtype_name

VOCABULARY, WIDTH, CLASSES = 50, 24, 4


class Tagger(nn.Module):
    """Tokens to a class, with every kind of layer that is treated by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.mix = nn.Conv1d(WIDTH, 32, 3, padding=1)
        self.body = nn.Linear(32, 48)
        self.unused = nn.Linear(48, 48)
        self.head = nn.Linear(48, CLASSES)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mixed = torch.relu(self.mix(self.words(input_ids).mT)).mT
        pooled = (self.body(mixed).relu() * attention_mask[..., None]).mean(dim=1)
        answer: torch.Tensor = self.head(pooled)
        return answer


@pytest.fixture
def tagger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    def make(name: str | None, arguments: Any) -> nn.Module:
        assert name == "tagger"
        return Tagger(**arguments)

    for module in ("worker.evaluation.factory.architecture", "worker.aware.watchable"):
        monkeypatch.setattr(f"{module}.make_model", make)
    assert registry.make_model is not make
    torch.manual_seed(0)
    model = Tagger().eval()
    data = {
        "input_ids": torch.randint(VOCABULARY, (200, 7)),
        "attention_mask": (torch.rand(200, 7) < 0.8).long(),
    }
    save_file({k: v.detach() for k, v in model.state_dict().items()}, tmp_path / "model")
    with torch.inference_mode():
        targets = model(**data).argmax(dim=1)
    save_file({**data, "targets": targets}, tmp_path / "validation")
    return {"model": model, "data": data, "path": tmp_path / "model", "folder": tmp_path}


EVALUATION = {"validation": "v", "architecture": {"kind": "factory", "name": "tagger"}}


@pytest.mark.parametrize("aware", ["inputs", "two_sided"])
def test_a_factorys_layers_are_watched_here(tagger: dict[str, Any], aware: str) -> None:
    folder = tagger["folder"]
    files = {"validation": folder / "validation"}
    job = {"rule": "budget", "budget": {"parameters": 0.8}, "aware": aware}
    (done,) = run(folder, tagger["path"], files=files, evaluation=EVALUATION, **job)
    actions = {name: layer.action for name, layer in done.layers.items()}
    assert actions["mix.weight"] is Action.FACTORISED
    assert done.layers["unused.weight"].reason is Reason.NO_STATISTICS
    assert "words.weight" in done.layers
    # The caller's own statistics on the same samples: the same file, byte for byte.
    rows = {key: tensor[::5] for key, tensor in tagger["data"].items()}
    statistics = rankpress.collect_statistics(
        tagger["model"], [rows], folder / "s", two_sided=aware == "two_sided"
    )
    (own := folder / "own").mkdir()
    (theirs,) = run(own, tagger["path"], files={"statistics": statistics}, statistics="s", **job)
    ours = load_file(done.path)
    for key, tensor in load_file(theirs.path).items():
        torch.testing.assert_close(tensor, ours[key], rtol=1e-4, atol=1e-5)
    # What was scored is what a caller loads.
    scored = [i for i in range(200) if i % 5]
    data = load_file(files["validation"])
    with torch.inference_mode():
        answers = load_compressed(Tagger().eval(), done.path)(
            data["input_ids"][scored], data["attention_mask"][scored]
        )
    accuracy = (answers.argmax(dim=1) == data["targets"][scored]).float().mean()
    assert done.evaluation is not None
    (found,) = [m for m in done.evaluation.metrics if m.name == "accuracy"]
    assert found.compressed == pytest.approx(float(accuracy), abs=1e-6)


def test_names_with_wrappers_and_shared_weights() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4), "c": nn.Linear(4, 3)})
    model["b"].weight = model["a"].weight
    tensors = [
        StoredTensor(
            name=f"module.{name}", dtype=dtype_name(t.dtype), shape=tuple(t.shape), nbytes=t.nbytes
        )
        for name, t in model.state_dict().items()
    ]
    assert layers_of(model, tensors) == {"module.c.weight": model["c"]}
