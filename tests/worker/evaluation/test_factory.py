"""Models made by code that the operator installed: equal to torch, and to the template."""

import copy
import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

import rankpress
from rankpress.errors import EvaluationMismatch
from tests.worker.evaluation.evaluation_helpers import (
    MemoryCheckpoint,
    request,
    restored,
    run,
    values,
    write_npz,
)
from worker.evaluation import check_evaluation
from worker.evaluation.factory import registry

CLASSES = 5


class Small(nn.Module):
    def __init__(self, channels: int = 6, tied: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.inner = nn.Linear(channels, channels)
        self.head = nn.Linear(channels, CLASSES)
        self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)
        if tied:
            self.other = nn.Linear(channels, channels)
            self.other.weight = self.inner.weight

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.conv(pixels))).mean(dim=(2, 3)) * self.scale
        return self.head(torch.relu(self.inner(hidden)))


class Structured(nn.Module):
    """Answers as transformers does: a mapping with logits after something else."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None):
        hidden = self.embed(input_ids).mean(dim=1)
        return {"hidden": hidden.round().long(), "logits": self.head(hidden)}


def broken(**_: object) -> nn.Module:
    raise RuntimeError("a secret of the operator")


def no_module() -> object:
    return "a string"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    here = __name__
    points = EntryPoints(
        EntryPoint(name, f"{here}:{value}", registry.GROUP)
        for name, value in {
            "small": "Small",
            "structured": "Structured",
            "broken": "broken",
            "no_module": "no_module",
        }.items()
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    monkeypatch.setitem(sys.modules, here, sys.modules[__name__])


def asked(name: str | None = "small", arguments=None, **fields):
    architecture = {"kind": "factory", "name": name, "arguments": arguments or {}}
    return request(architecture=architecture, **fields)


@pytest.fixture
def small(tmp_path):
    torch.manual_seed(0)
    model = Small()
    inputs, targets = torch.randn(40, 1, 6, 7), torch.randint(0, CLASSES, (40,))
    model.train()
    model(inputs)
    model.eval()
    return model, inputs, targets


def entropies(model, states, inputs, targets) -> list[float]:
    found = []
    for state in states:
        model.load_state_dict(state)
        with torch.no_grad():
            found.append(float(functional.cross_entropy(model(inputs).double(), targets)))
    return found


RANKS = {"conv.weight": 4, "inner.weight": 3}


@pytest.mark.parametrize("name", ["pixels", "inputs"])
def test_a_factory_a_template_and_torch_agree(tmp_path, small, name):
    model, inputs, targets = small
    state = copy.deepcopy(dict(model.state_dict()))
    data = write_npz(tmp_path / "v.npz", **{name: inputs}, targets=targets)
    report, less, manifest = run(asked(), state, RANKS, data)
    example = {"pixels": inputs[:2]} if name == "pixels" else inputs[:2]
    rankpress.export_template(model, example, tmp_path / "t.onnx")
    by_template, _, _ = run(
        request(architecture={"kind": "template", "template": "t"}),
        state,
        RANKS,
        data,
        tmp_path / "t.onnx",
    )
    wanted = entropies(model, (state, restored(less, manifest)), inputs, targets)
    for found in (report, by_template):
        assert values(found)["cross_entropy"] == pytest.approx(wanted, abs=1e-5)
    for one, other in zip(report.metrics, by_template.metrics, strict=True):
        assert one.compressed == pytest.approx(other.compressed, abs=1e-4)
    assert report.architecture == "factory small"
    assert not report.architecture_assumed
    assert len(report.latency) == 2


def test_the_last_layer_that_runs_is_the_output_layer(tmp_path, small):
    model, inputs, targets = small
    data = write_npz(tmp_path / "v.npz", pixels=inputs, targets=targets)
    plan = check_evaluation(asked(), MemoryCheckpoint(model.state_dict()).tensors, data, None)
    assert plan.output_layer == "head.weight"
    assert plan.classes == CLASSES


def test_arguments_reach_the_factory(tmp_path, small):
    _, inputs, targets = small
    data = write_npz(tmp_path / "v.npz", pixels=inputs, targets=targets)
    wide = Small(channels=9).eval()
    state = copy.deepcopy(dict(wide.state_dict()))
    report, _, _ = run(asked(arguments={"channels": 9}), state, {"inner.weight": 2}, data)
    wanted = entropies(wide, [state], inputs, targets)
    assert values(report)["cross_entropy"][0] == pytest.approx(wanted[0], abs=1e-5)


def test_structured_answers_and_token_inputs(tmp_path):
    torch.manual_seed(0)
    model = Structured().eval()
    ids, targets = torch.randint(0, 20, (30, 6)), torch.randint(0, CLASSES, (30,))
    data = write_npz(tmp_path / "v.npz", input_ids=ids, targets=targets)
    state = copy.deepcopy(dict(model.state_dict()))
    report, _, _ = run(asked("structured"), state, {"embed.weight": 3}, data)
    with torch.no_grad():
        wanted = float(functional.cross_entropy(model(ids)["logits"].double(), targets))
    assert values(report)["cross_entropy"][0] == pytest.approx(wanted, abs=1e-5)


def test_a_tied_name_may_be_left_out_of_the_file(tmp_path, small):
    _, inputs, targets = small
    data = write_npz(tmp_path / "v.npz", pixels=inputs, targets=targets)
    model = Small(tied=True).eval()
    state = copy.deepcopy(dict(model.state_dict()))
    del state["other.weight"]
    report, _, _ = run(asked(arguments={"tied": True}), state, {"inner.weight": 3}, data)
    assert report.samples == 40


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes(tmp_path, small, dtype):
    model, inputs, targets = small
    data = write_npz(tmp_path / "v.npz", pixels=inputs, targets=targets)
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    report, _, _ = run(asked(), state, RANKS, data)
    compute = torch.float64 if dtype is torch.float64 else torch.float32
    wanted = entropies(model.to(compute), [state], inputs.to(compute), targets)
    assert values(report)["cross_entropy"][0] == pytest.approx(wanted[0], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nothing", {}, r"'nothing' is not installed"),
        ("broken", {"a": 1}, r"makes no model .*\(RuntimeError\); it was given a"),
        ("small", {"chanels": 1}, r"\(TypeError\)"),
        ("no_module", {}, r"gave no nn\.Module"),
        ("small", {"channels": 7}, r"'conv\.weight' is \[6, 1, 3, 3\] in the file and \[7, 1"),
        ("structured", {}, r"forward takes|lacks"),
    ],
)
def test_factories_that_do_not_fit(tmp_path, small, name, arguments, message):
    model, inputs, targets = small
    data = write_npz(tmp_path / "v.npz", pixels=inputs, targets=targets)
    tensors = MemoryCheckpoint(model.state_dict()).tensors
    with pytest.raises(EvaluationMismatch, match=message) as refused:
        check_evaluation(asked(name, arguments), tensors, data, None)
    assert "secret" not in refused.value.detail


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": torch.zeros(4, 1, 6, 7)}, r"'images', but the model's forward takes pixels"),
        ({}, r"no array 'pixels', which"),
        ({"pixels": torch.zeros(4, 2, 6, 7)}, r"does not take one sample.*\[1, 2, 6, 7\]"),
    ],
)
def test_data_that_the_model_does_not_take(tmp_path, small, arrays, message):
    model, _, _ = small
    data = write_npz(tmp_path / "v.npz", targets=torch.zeros(4, dtype=torch.int64), **arrays)
    with pytest.raises(EvaluationMismatch, match=message):
        check_evaluation(asked(), MemoryCheckpoint(model.state_dict()).tensors, data, None)


def test_missing_and_extra_tensors(tmp_path, small):
    model, inputs, targets = small
    data = write_npz(tmp_path / "v.npz", pixels=inputs, targets=targets)
    state = dict(model.state_dict())
    del state["norm.running_mean"]
    state["stray"] = torch.zeros(2)
    with pytest.raises(EvaluationMismatch, match=r"1 missing, 1 unexpected.*running_mean.*stray"):
        check_evaluation(asked(), MemoryCheckpoint(state).tensors, data, None)


class Masked(nn.Module):
    """Looks at its mask's values, which the meta device has not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(x if bool(mask.all()) else x * mask)


def test_a_model_that_looks_at_values_is_probed_for_real(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_READY", {"masked": Masked})
    torch.manual_seed(0)
    x, mask = torch.randn(9, 4), torch.ones(9, 4)
    data = write_npz(tmp_path / "v.npz", x=x, mask=mask, targets=torch.zeros(9, dtype=torch.int64))
    state = copy.deepcopy(dict(Masked().state_dict()))
    plan = check_evaluation(asked("masked"), MemoryCheckpoint(state).tensors, data, None)
    assert plan.output_layer == "head.weight"
    report, _, _ = run(asked("masked"), state, {}, data)
    assert report.samples == 9


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("torchvision", {"model": "evil"}, r"has no model 'evil'"),
        ("torchvision", {"model": "tiny", "weights": "DEFAULT"}, r"does not take 'weights'"),
        ("timm", {"model": "hf-hub:someone/model"}, r"has no model 'hf-hub:someone/model'"),
        ("timm", {"model": "tiny", "pretrained": True}, r"not 'pretrained'"),
        ("timm", {"model": "tiny", "checkpoint_path": "/etc/passwd"}, r"not 'checkpoint_path'"),
        ("transformers", {"model": "AutoModel", "config": {}}, r"no model class 'AutoModel'"),
        ("transformers", {"model": "os.system", "config": {}}, r"no model class 'os\.system'"),
        (
            "transformers",
            {"model": "TinyModel", "config": {"auto_map": {"AutoModel": "x--y.Z"}}},
            r"does not take 'auto_map'",
        ),
        (
            "transformers",
            {"model": "TinyModel", "config": {"_name_or_path": "someone/model"}},
            r"does not take '_name_or_path'",
        ),
    ],
)
def test_the_ready_factories_fetch_nothing(tmp_path, small, monkeypatch, name, arguments, message):
    # Stand-ins for the three libraries: what is refused must be refused before they are called.
    def never(*_: object, **__: object) -> nn.Module:
        raise AssertionError("called")

    class PreTrainedModel(nn.Module):
        pass

    class TinyModel(PreTrainedModel):
        config_class = SimpleNamespace(from_dict=never)

    models = SimpleNamespace(list_models=lambda: ["tiny"], get_model=never)
    for library, stand_in in {
        "torchvision": SimpleNamespace(models=models),
        "timm": SimpleNamespace(list_models=lambda: ["tiny"], create_model=never),
        "transformers": SimpleNamespace(
            PreTrainedModel=PreTrainedModel, TinyModel=TinyModel, AutoModel=object
        ),
    }.items():
        monkeypatch.setitem(sys.modules, library, stand_in)
    model, inputs, targets = small
    data = write_npz(tmp_path / "v.npz", pixels=inputs, targets=targets)
    with pytest.raises(EvaluationMismatch, match=message):
        check_evaluation(
            asked(name, arguments), MemoryCheckpoint(model.state_dict()).tensors, data, None
        )


def test_a_library_that_is_not_installed(tmp_path, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    model, inputs, targets = small
    data = write_npz(tmp_path / "v.npz", pixels=inputs, targets=targets)
    with pytest.raises(EvaluationMismatch, match="needs the library timm"):
        check_evaluation(
            asked("timm", {"model": "resnet18"}),
            MemoryCheckpoint(model.state_dict()).tensors,
            data,
            None,
        )
