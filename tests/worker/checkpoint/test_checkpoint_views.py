"""Views, ties, and tensors that are more than a block of numbers."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rankpress.errors import (
    InvalidRequest,
    UnsupportedFormat,
)
from rankpress.names import OutputFormat, Reason
from tests.worker.checkpoint.checkpoint_tools import assert_same, noise, opened, written
from worker.checkpoint import check_output, open_checkpoint


def test_views_give_their_logical_values(tmp_path: Path) -> None:
    base = noise(torch.float32, 12, 10)
    value = {
        "t": base[:4, :6].t(),
        "slice": base[3, 2:7],
        "strided": base[::3, 1::4],
        "channels_last": noise(torch.float32, 2, 3, 4, 4).to(memory_format=torch.channels_last),
        "mask": torch.ones(1).expand(3, 2),
    }
    torch.save(value, tmp_path / "in")
    checkpoint = open_checkpoint([tmp_path / "in"])
    assert_same(opened(checkpoint), value)
    assert [t.nbytes for t in checkpoint.tensors] == [96, 20, 48, 384, 24]
    for wanted in (OutputFormat.TORCH, OutputFormat.SAFETENSORS):
        written(checkpoint, tmp_path / "out", wanted)
        assert_same(opened(open_checkpoint([tmp_path / "out"])), value)
    written(checkpoint, tmp_path / "out", OutputFormat.TORCH)
    found = torch.load(tmp_path / "out", weights_only=True)
    assert found["channels_last"].is_contiguous(memory_format=torch.channels_last)
    assert found["slice"].untyped_storage().nbytes() == 20, "a slice takes its own bytes alone"


def test_tied_tensors_of_torch_are_one(tmp_path: Path) -> None:
    embedding = noise(torch.float32, 6, 4)
    value = {"emb": embedding, "head": embedding, "part": embedding[:3], "equal": embedding.clone()}
    torch.save(value, tmp_path / "in")
    checkpoint = open_checkpoint([tmp_path / "in"])
    assert {t.name: t.alias_of for t in checkpoint.tensors} == {
        "emb": None, "head": "emb", "part": None, "equal": None,
    }  # fmt: skip
    written(checkpoint, tmp_path / "out")
    found = torch.load(tmp_path / "out", weights_only=True)
    assert_same(found, value)
    assert found["emb"].data_ptr() == found["head"].data_ptr()
    written(checkpoint, tmp_path / "flat", OutputFormat.SAFETENSORS)
    assert_same(load_file(tmp_path / "flat"), value)


def test_tied_tensors_of_safetensors_are_found_by_their_bytes(tmp_path: Path) -> None:
    matrix = noise(torch.float16, 100, 90)
    other = matrix.clone()
    other[20, 20] += 1
    tensors = {"a": matrix, "b": matrix.clone(), "c": other, "d": matrix.view(90, 100).clone(),
               "z1": torch.zeros(5, 4), "z2": torch.zeros(5, 4),
               "n1": torch.ones(9), "n2": torch.ones(9)}  # fmt: skip
    save_file(tensors, tmp_path / "in")
    aliases = {t.name: t.alias_of for t in open_checkpoint([tmp_path / "in"]).tensors}
    assert {k for k, v in aliases.items() if v} == {"b"}
    assert aliases["b"] == "a"


def special() -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # beta and deprecation notices
        tensors = {
            "csr": torch.eye(3).to_sparse_csr(),
            "q": torch.quantize_per_tensor(torch.ones(2, 2), 0.5, 3, torch.qint8),
            "qc": torch.quantize_per_channel(
                torch.ones(2, 2), torch.tensor([0.5, 1.0]), torch.tensor([0, 1]), 0, torch.qint8
            ),
        }
    return tensors | {
        "coo": torch.eye(3).to_sparse(),
        "meta": torch.empty(2, 2, device="meta"),
        "conj": torch.ones(2, 2, dtype=torch.complex64).conj(),
        "w": noise(torch.float32, 6, 4),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_special_tensors_stay_as_they_are(legacy: bool, tmp_path: Path) -> None:
    tensors = special()
    if legacy:
        del tensors["meta"], tensors["conj"]
    torch.save(tensors, tmp_path / "in", _use_new_zipfile_serialization=not legacy)
    checkpoint = open_checkpoint([tmp_path / "in"])
    reasons = {t.name: t.passthrough for t in checkpoint.tensors}
    expected = {
        "csr": Reason.SPARSE, "coo": Reason.SPARSE, "q": Reason.QUANTISED, "qc": Reason.QUANTISED,
        "meta": Reason.META, "conj": Reason.SPECIAL_TENSOR, "w": None,
    }  # fmt: skip
    assert reasons == {name: expected[name] for name in tensors}
    written(checkpoint, tmp_path / "out")
    found = torch.load(tmp_path / "out", weights_only=True)
    for name in tensors.keys() - {"meta"}:
        assert found[name].layout == tensors[name].layout
        dense = [
            t.dequantize() if t.is_quantized else t.to_dense() for t in (found[name], tensors[name])
        ]
        assert torch.equal(*dense), name
    with pytest.raises(InvalidRequest, match="safetensors cannot hold") as caught:
        check_output(checkpoint, OutputFormat.SAFETENSORS)
    assert caught.value.errors[0].pointer == "/output/format"
    with pytest.raises(UnsupportedFormat, match="cannot be read apart"):
        checkpoint.tensor("coo")
