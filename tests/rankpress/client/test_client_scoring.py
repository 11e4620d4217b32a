"""`compress` with an architecture: exported from a module, or a file that was exported before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import nn

from rankpress.loading import FactorisedLinear
from rankpress.loading.export import ExportFailed
from rankpress.names import Kind
from tests.rankpress.client.fakeservice import running, whole_service
from tests.rankpress.loading.compressing_by_hand import Cut, compress, write
from worker.evaluation.template import load_architecture
from worker.tensors import StoredTensor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 4)
        self.second = nn.Linear(4, 9)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(pixels)))


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    """What the service answers for `Net()`."""
    tensors, manifest, _ = compress(Net().state_dict(), [Cut("first.weight", Kind.MATRIX, 2)])
    return write(tmp_path / "answer.safetensors", tensors, manifest).read_bytes()


def submitted(service: Any) -> dict[str, Any]:
    (body,) = (s.body for s in service.seen if (s.method, s.path) == ("POST", "/v1/jobs"))
    found: dict[str, Any] = json.loads(body)
    return found


def test_a_module_is_exported_and_sent(drive: Any, weights: bytes, tmp_path: Path) -> None:
    model = Net().train()
    samples = {"pixels": torch.randn(5, 6)[:, :], "targets": np.arange(5)}
    with running(whole_service(weights)) as service:
        call = lambda c: c.compress(  # noqa: E731
            model,
            threshold=0.9,
            validation=samples,
            example_inputs={"pixels": torch.randn(2, 6)},
            evaluation={"batch_size": 7},
        )
        done = drive(service.url, call)
    assert submitted(service) == {
        "model": "up_1",
        "threshold": 0.9,
        "evaluation": {
            "validation": "up_2",
            "architecture": {"kind": "template", "template": "up_3"},
            "batch_size": 7,
        },
    }
    assert done.model is model
    assert isinstance(model.first, FactorisedLinear)
    state, sent, template = (s.body for s in service.seen[:3])
    assert torch.equal(load(state)["second.weight"], Net().second.weight)
    arrays = load(sent)
    assert torch.equal(arrays["pixels"], samples["pixels"])
    assert arrays["targets"].tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "template").write_bytes(template)
    stored = [
        StoredTensor(name=n, dtype="float32", shape=tuple(t.shape), nbytes=t.nbytes)
        for n, t in Net().state_dict().items()
    ]
    assert load_architecture(tmp_path / "template", stored).output_layer == "second.weight"


def test_a_template_goes_with_a_file(drive: Any, weights: bytes, tmp_path: Path) -> None:
    for name in ("net.safetensors", "val.npz", "net.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    with running(whole_service(weights)) as service:
        call = lambda c: c.frontier(  # noqa: E731
            tmp_path / "net.safetensors",
            thresholds=[0.9],
            validation=tmp_path / "val.npz",
            template=tmp_path / "net.onnx",
        )
        drive(service.url, call)
    assert [s.body for s in service.seen[:3]] == [b"net.safetensors", b"val.npz", b"net.onnx"]
    assert submitted(service)["evaluation"]["architecture"] == {
        "kind": "template",
        "template": "up_3",
    }


def test_nothing_is_sent_of_a_module_that_cannot_be_exported(drive: Any, weights: bytes) -> None:
    class Branching(Net):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels) if float(pixels.sum()) > 0 else pixels

    with running(whole_service(weights)) as service:
        call = lambda c: c.compress(  # noqa: E731
            Branching(), threshold=0.9, validation={"inputs": [1]}, example_inputs=torch.ones(2, 6)
        )
        with pytest.raises(ExportFailed, match="control flow"):
            drive(service.url, call)
    assert service.seen == []


X = torch.zeros(2, 6)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("net.pt", {"example_inputs": X, "validation": "v"}, "goes with an nn.Module"),
        ({"w": X}, {"example_inputs": X, "validation": "v"}, "goes with an nn.Module"),
        (Net(), {"example_inputs": X}, "pass validation"),
        ("net.pt", {"template": "t"}, "pass validation"),
        (
            Net(),
            {"example_inputs": X, "template": "t", "validation": "v"},
            "template or example_inputs, not both",
        ),
        (
            Net(),
            {
                "example_inputs": X,
                "validation": "v",
                "evaluation": {"architecture": {"kind": "mlp"}},
            },
            "leave it out",
        ),
        (Net(), {"validation": {"inputs": ["a"]}}, r"validation\['inputs'\] is no tensor"),
    ],
)
def test_what_cannot_go_together_is_told_at_once(
    drive: Any, weights: bytes, model: Any, arguments: dict[str, Any], message: str
) -> None:
    with running(whole_service(weights)) as service:
        call = lambda c: c.compress(model, threshold=0.9, **arguments)  # noqa: E731
        with pytest.raises(TypeError, match=message):
            drive(service.url, call)
    assert service.seen == []
