"""Where the weights are, and what lies beside them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rankpress.errors import (
    AmbiguousCheckpoint,
    InvalidRequest,
)
from rankpress.names import OutputFormat, Reason
from tests.worker.checkpoint.checkpoint_tools import (
    assert_same,
    noise,
    opened,
    outputs,
    plain,
    training_checkpoint,
    written,
)
from worker.checkpoint import open_artifact, open_checkpoint
from worker.tensors import OutputTensor

NESTED: dict[str, Callable[[Any], Any]] = {
    "state_dict": lambda sd: {"state_dict": sd, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "model": lambda sd: {"model": sd, "step": 2**40},
    "model_state_dict": lambda sd: {"model_state_dict": sd, "loss": [1.5, None, True, (1, 2)]},
    "module": lambda sd: {"module": sd},
    "net": lambda sd: {"net": sd, "acc": -1, "name": "näme"},
    "ema": lambda sd: {"ema": sd},
    "whatever.it.is": lambda sd: {"whatever": {"it": {"is": sd}}},
    "[0]": lambda sd: [sd, 3],
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("where", NESTED)
def test_nested_checkpoints_keep_what_is_around_the_weights(
    where: str, legacy: bool, tmp_path: Path
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4))
    value = NESTED[where](model.state_dict())
    torch.save(value, tmp_path / "in", _use_new_zipfile_serialization=not legacy)
    checkpoint = open_checkpoint([tmp_path / "in"])
    assert checkpoint.weights_path == where
    assert any(where in note for note in checkpoint.notes)
    assert_same(opened(checkpoint), model.state_dict())
    written(checkpoint, tmp_path / "out")
    found = torch.load(tmp_path / "out", weights_only=True)
    again = open_checkpoint([tmp_path / "out"])
    assert again.weights_path == where
    assert plain(found) == plain(value)
    weights = found[0] if where == "[0]" else found
    for step in where.split(".") if where != "[0]" else ():
        weights = weights[step]
    assert isinstance(weights, OrderedDict)
    model.load_state_dict(weights, strict=True)


def test_optimizer_state_is_kept_and_never_a_candidate(tmp_path: Path) -> None:
    value = training_checkpoint()
    torch.save(value, tmp_path / "in")
    checkpoint = open_checkpoint([tmp_path / "in"])
    assert checkpoint.weights_path == "model"
    assert {t.name for t in checkpoint.tensors} == {"weight", "bias"}
    assert any("optimizer state" in note for note in checkpoint.notes)
    written(checkpoint, tmp_path / "out")
    assert plain(torch.load(tmp_path / "out", weights_only=True)) == plain(value)


def test_optimizer_state_goes_when_the_caller_says_so(tmp_path: Path) -> None:
    value = training_checkpoint()
    torch.save(value, tmp_path / "in")
    written(open_checkpoint([tmp_path / "in"]), tmp_path / "out", drop_optimizer=True)
    expected = {k: v for k, v in value.items() if k not in ("optimizer", "lr_scheduler")}
    assert plain(torch.load(tmp_path / "out", weights_only=True)) == plain(expected)


def test_lightning(tmp_path: Path) -> None:
    value = training_checkpoint()
    value = {
        "state_dict": value["model"], "epoch": 3, "optimizer_states": [value["optimizer"]],
        "pytorch-lightning_version": "2.5",
    }  # fmt: skip
    torch.save(value, tmp_path / "in")
    checkpoint = open_checkpoint([tmp_path / "in"])
    assert checkpoint.weights_path == "state_dict"
    with pytest.raises(InvalidRequest) as caught:
        open_checkpoint([tmp_path / "in"], weights_path="optimizer_states[0].state[0]")
    assert caught.value.errors[0].pointer == "/weights_path"


def test_optimizer_state_in_a_flat_file(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3, 2), "w.exp_avg": torch.zeros(3, 2)}, tmp_path / "in")
    reasons = {t.name: t.passthrough for t in open_checkpoint([tmp_path / "in"]).tensors}
    assert reasons == {"w": None, "w.exp_avg": Reason.OPTIMIZER_STATE}


def test_several_candidates_are_listed_with_the_field_that_chooses(tmp_path: Path) -> None:
    first, second = (torch.nn.Linear(6, 4).state_dict() for _ in range(2))
    torch.save({"model": first, "ema": second, "epoch": 1}, tmp_path / "in")
    with pytest.raises(AmbiguousCheckpoint, match="weights_path") as caught:
        open_checkpoint([tmp_path / "in"])
    assert "'model' (2 tensors), 'ema' (2 tensors)" in caught.value.detail
    checkpoint = open_checkpoint([tmp_path / "in"], weights_path="ema")
    assert_same(opened(checkpoint), second)
    half = [replace_values(o, torch.zeros(o.shape)) for o in outputs(checkpoint)]
    written(checkpoint, tmp_path / "out", items=half)
    found = torch.load(tmp_path / "out", weights_only=True)
    assert_same(found["model"], first)
    assert not found["ema"]["weight"].any()
    with pytest.raises(InvalidRequest, match=r"'nothing'.*'model'"):
        open_checkpoint([tmp_path / "in"], weights_path="nothing")


def replace_values(output: OutputTensor, values: torch.Tensor) -> OutputTensor:
    return replace(output, load=lambda: values, source=None)


def test_the_top_level_has_a_name(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3, 2), "teacher": {"w": torch.zeros(3, 2)}}, tmp_path / "in")
    with pytest.raises(AmbiguousCheckpoint, match=r"'\.' \(1 tensors\), 'teacher'"):
        open_checkpoint([tmp_path / "in"])
    assert open_checkpoint([tmp_path / "in"], weights_path=".").weights_path is None
    save_file({"w": torch.ones(2)}, tmp_path / "flat")
    assert open_checkpoint([tmp_path / "flat"], weights_path=".").weights_path is None
    with pytest.raises(InvalidRequest, match="not nested"):
        open_checkpoint([tmp_path / "flat"], weights_path="model")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_stay_as_they_came(prefix: str, tmp_path: Path) -> None:
    tensors = {f"{prefix}fc.weight": noise(torch.float32, 3, 2)}
    torch.save({"state_dict": tensors}, tmp_path / "in")
    written(open_checkpoint([tmp_path / "in"]), tmp_path / "out")
    assert_same(torch.load(tmp_path / "out", weights_only=True)["state_dict"], tensors)


def test_parameters_and_non_tensor_entries_of_the_mapping(tmp_path: Path) -> None:
    model = torch.nn.Linear(6, 4)
    value = OrderedDict(model.named_parameters())
    value["_extra_state"] = {"version": 2}
    value["lr"] = 0.1
    torch.save(value, tmp_path / "in")
    checkpoint = open_checkpoint([tmp_path / "in"])
    written(checkpoint, tmp_path / "out")
    found = torch.load(tmp_path / "out", weights_only=True)
    assert list(found) == ["weight", "bias", "_extra_state", "lr"]
    assert isinstance(found["weight"], torch.nn.Parameter)
    assert found["weight"].requires_grad
    assert found["_extra_state"] == {"version": 2}


@pytest.mark.parametrize("wanted", OutputFormat)
@pytest.mark.parametrize("chosen", ["model", "."])
def test_the_artifact_is_opened_where_the_weights_were_put(
    wanted: OutputFormat, chosen: str, tmp_path: Path
) -> None:
    weights = torch.nn.Linear(6, 4).state_dict()
    other = {"weight": torch.zeros(2, 2)}
    value = {"model": weights, "ema": other} if chosen == "model" else {**weights, "ema": other}
    torch.save(value, tmp_path / "in")
    source = open_checkpoint([tmp_path / "in"], weights_path=chosen)
    written(source, tmp_path / "out", wanted)
    assert_same(opened(open_artifact(tmp_path / "out", source)), weights)


def test_a_candidate_without_matrices_may_be_chosen(tmp_path: Path) -> None:
    torch.save(
        {"model": {"w": torch.ones(3, 2)}, "stats": {"mean": torch.ones(3)}}, tmp_path / "in"
    )
    assert open_checkpoint([tmp_path / "in"]).weights_path == "model"
    assert open_checkpoint([tmp_path / "in"], weights_path="stats").weights_path == "stats"


def test_an_empty_state_dict_is_one(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "in")
    for path in (None, "."):
        checkpoint = open_checkpoint([tmp_path / "in"], weights_path=path)
        assert checkpoint.tensors == ()
        written(checkpoint, tmp_path / "out")
        assert torch.load(tmp_path / "out", weights_only=True) == {}
