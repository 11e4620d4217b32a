"""A refit of the layers that are no matrices as they are: convolutions by their patches, and an
embedding, which has nothing to be fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rankpress.loading import load_compressed
from rankpress.names import Action
from tests.worker.pipelinekit import Done, run

SAMPLES, KINDS, CLASSES = 150, 40, 4


class Looker(nn.Module):
    """Images and a kind to a class. One layer runs twice, the activations work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.Embedding(KINDS, 12)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 12, 3, stride=2, padding="valid", bias=False)
        self.twice = nn.Linear(12, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, image: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        seen = self.second(self.first(image).relu_()).relu_().mean(dim=(2, 3))
        x = seen + self.kinds(kind)
        x = x + self.twice(self.twice(x).relu_()).relu_()
        answer: torch.Tensor = self.head(x)
        return answer


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    def make(name: str | None, arguments: Any) -> nn.Module:
        return Looker(**arguments)

    for module in ("worker.evaluation.factory.architecture", "worker.aware.watchable"):
        monkeypatch.setattr(f"{module}.make_model", make)
    torch.manual_seed(0)
    model = Looker().eval()
    smooth = torch.nn.functional.interpolate(torch.randn(SAMPLES, 3, 3, 3), size=(9, 9))
    data = {"image": smooth.contiguous(), "kind": torch.randint(KINDS, (SAMPLES,))}
    with torch.inference_mode():
        targets = model(**data).argmax(dim=1)
    save_file({k: v.detach() for k, v in model.state_dict().items()}, tmp_path / "model")
    save_file({**data, "targets": targets}, tmp_path / "validation")
    return {name: tmp_path / name for name in ("model", "validation")}


def job(files: dict[str, Path], folder: Path, **fields: Any) -> Done:
    folder.mkdir()
    evaluation = {
        "validation": "v",
        "architecture": {"kind": "factory", "name": "looker"},
        "latency": False,
        "batch_size": 32,
    }
    given = {"rule": "ratio", "threshold": 0.4, "evaluation": evaluation, "aware": "inputs"}
    (done,) = run(
        folder, files["model"], files={"validation": files["validation"]}, **(given | fields)
    )
    return done


@pytest.mark.parametrize("aware", ["inputs", "two_sided"])
def test_each_kind_of_layer(aware: str, files: dict[str, Path], tmp_path: Path) -> None:
    done = job(files, tmp_path / "refit", aware=aware, refit=True)
    again = job(files, tmp_path / "again", aware=aware, refit=True)
    assert done.path.read_bytes() == again.path.read_bytes()
    weights = {name: layer for name, layer in done.layers.items() if name.endswith("weight")}
    factorised = {n: x.refitted for n, x in weights.items() if x.action is Action.FACTORISED}
    assert factorised == {
        "kinds.weight": None,
        "first.weight": False,  # its inputs are the images themselves
        "second.weight": True,
        "twice.weight": True,
    }
    assert "not tried: 1, which are embeddings" in done.notes[-1]

    # The convolution's error over the samples that calibrated, by torch's own convolution.
    plain = job(files, tmp_path / "plain", aware=aware)
    images = load_file(files["validation"])["image"][::5]
    dense = Looker().eval()
    dense.load_state_dict(load_file(files["model"]))
    lost = []
    with torch.inference_mode():
        for one in (plain, done):
            small = load_compressed(Looker().eval(), one.path)
            assert isinstance(small, Looker)
            answers = [m.second(m.first(images).relu()) for m in (dense, small)]
            lost.append(float((answers[0] - answers[1]).double().square().mean()))
    layer = weights["second.weight"]
    assert layer.calibration_error is not None
    assert layer.calibration_error_before is not None
    if aware == "inputs":
        ratio = layer.calibration_error / layer.calibration_error_before
        assert (lost[1] / lost[0]) ** 0.5 == pytest.approx(ratio, rel=1e-4)
    assert lost[1] < lost[0]


def test_the_padding_of_sequences_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What stands in the padding changes no factor."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(KINDS, 16)
            self.body = nn.Linear(16, 24)
            self.then = nn.Linear(24, 16)
            self.head = nn.Linear(16, CLASSES)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            x = self.then(self.body(self.words(input_ids)).relu())
            answer: torch.Tensor = self.head((x * attention_mask[..., None]).mean(dim=1))
            return answer

    for module in ("worker.evaluation.factory.architecture", "worker.aware.watchable"):
        monkeypatch.setattr(f"{module}.make_model", lambda name, arguments: Reader())
    torch.manual_seed(0)
    save_file({k: v.detach() for k, v in Reader().state_dict().items()}, tmp_path / "model")
    mask = torch.ones(SAMPLES, 6, dtype=torch.long)
    mask[:, 4:] = 0
    written = []
    for padding in (0, 7):
        words = torch.randint(KINDS, (SAMPLES, 6), generator=torch.Generator().manual_seed(1))
        words[:, 4:] = padding
        targets = torch.arange(SAMPLES) % CLASSES
        samples = {"input_ids": words, "attention_mask": mask, "targets": targets}
        save_file(samples, tmp_path / "validation")
        files = {name: tmp_path / name for name in ("model", "validation")}
        done = job(files, tmp_path / f"padding-{padding}", refit=True)
        assert done.layers["then.weight"].refitted is True
        written.append(done.path.read_bytes())
    assert written[0] == written[1]
