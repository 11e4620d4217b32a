"""Templates as a caller makes them: what they hold, and what cannot be exported."""

import json
import sys

import onnx
import pytest
import torch
from torch import nn

import rankpress
from rankpress.loading.export import ExportFailed, export_template
from rankpress.schemas.template import METADATA_KEY, REFERENCE_KEY, STATE_DICT


class Two(nn.Module):
    """Two inputs, two outputs, one tensor that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.second = nn.Linear(3, 7)
        self.drop = nn.Dropout(0.5)
        self.pooler = nn.Linear(7, 7)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, wide: torch.Tensor, thin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.drop(self.first(wide))
        return hidden + self.second(thin), hidden


WIDE, THIN = torch.randn(2, 5), torch.randn(2, 3)
UNUSED = ["pooler.weight", "pooler.bias"]


def read(path):
    model = onnx.load_from_string(path.read_bytes())
    return model, {entry.key: entry.value for entry in model.metadata_props}


def test_several_inputs_are_named_by_forward(tmp_path):
    made = rankpress.export_template(Two(), (WIDE, THIN), tmp_path / "t", unused=UNUSED)
    assert made.inputs == ("wide", "thin")
    assert len(made.outputs) == 2
    assert made.path == tmp_path / "t"
    model, told = read(made.path)
    assert json.loads(told[METADATA_KEY])["unused"] == UNUSED
    assert REFERENCE_KEY in told
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == STATE_DICT
        assert tensor.name in Two().state_dict()


def test_a_mapping_is_passed_by_keyword_in_any_order(tmp_path):
    made = export_template(Two(), {"thin": THIN, "wide": WIDE}, tmp_path / "t", unused=UNUSED)
    assert set(made.inputs) == {"wide", "thin"}


def test_one_tensor_is_called_inputs(tmp_path):
    made = export_template(nn.Linear(5, 3), WIDE, tmp_path / "t")
    assert made.inputs == ("inputs",)


def test_the_batch_axis_is_open_even_from_one_example(tmp_path):
    made = export_template(nn.Linear(5, 3), WIDE[:1], tmp_path / "t")
    model, _ = read(made.path)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    made = export_template(nn.Linear(5, 3), WIDE[:1], tmp_path / "f", dynamic_batch=False)
    model, _ = read(made.path)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_every_module_keeps_its_own_mode(tmp_path):
    model = Two()
    model.train()
    model.first.eval()
    export_template(model, (WIDE, THIN), tmp_path / "t", unused=UNUSED)
    assert model.training
    assert model.drop.training
    assert not model.first.training


def test_the_examples_stay_at_home_when_asked(tmp_path):
    made = export_template(nn.Linear(5, 3), WIDE, tmp_path / "t", reference=False)
    assert REFERENCE_KEY not in read(made.path)[1]


def test_tensors_that_play_no_part_must_be_named(tmp_path):
    with pytest.raises(ExportFailed, match=r"pooler\.weight, pooler\.bias"):
        export_template(Two(), (WIDE, THIN), tmp_path / "t")
    with pytest.raises(ExportFailed, match="no tensor of the state_dict: nothing"):
        export_template(Two(), (WIDE, THIN), tmp_path / "t", unused=["nothing"])
    assert not (tmp_path / "t").exists()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_a_model_that_cannot_be_followed(tmp_path):
    model = Branching().train()
    with pytest.raises(ExportFailed, match="cannot follow the model"):
        export_template(model, WIDE, tmp_path / "t")
    assert model.training
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((), "must be tensors"),
        (([1, 2],), "must be tensors"),
        (torch.tensor(1.0), "batch as their first axis"),
        ((WIDE, THIN[:1]), "same number of samples"),
        (WIDE[:0], "at least one"),
    ],
)
def test_examples_that_are_none(tmp_path, example, message):
    with pytest.raises(ExportFailed, match=message):
        export_template(Two(), example, tmp_path / "t", unused=UNUSED)


def test_the_extra_is_named_when_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"rankpress\[export\]"):
        export_template(nn.Linear(5, 3), WIDE, tmp_path / "t")
