"""CASES, Checkpoints: what is taken, and what becomes of every tensor in it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import Any

import torch

from rankpress.names import Action, Reason
from tests.end_to_end.cases.refused import flipped, shards, tar_of
from tests.end_to_end.cases.tools import (
    VECTOR,
    Result,
    Taken,
    kept,
    low,
    noise,
    one,
    passed,
    product_is,
    pt,
    rank,
    st,
)  # fmt: skip

W = low(96, 64, 2)
STATE = {"w.weight": W, "w.bias": torch.ones(96)}
LAYERS = {"w.weight": rank(2), "w.bias": VECTOR}


def loaded(result: Result) -> Any:
    return torch.load(result.path, weights_only=True)


def wrapped(prefix: str) -> Taken:
    """Output keys exactly as they came, but for the factors' own."""

    def also(result: Result) -> None:
        keys = {f"{prefix}w.0.weight", f"{prefix}w.1.weight", f"{prefix}w.1.bias"}
        assert loaded(result).keys() == keys
        product_is(result, f"{prefix}w.weight", W)

    return Taken(
        id=f"keys of {prefix}",
        files=lambda: pt({prefix + k: v for k, v in STATE.items()}),
        layers={prefix + k: v for k, v in LAYERS.items()},
        also=also,
    )


def flip_is_in_the_report(result: Result) -> None:
    found = hashlib.sha256(flipped()).hexdigest()
    assert result.report.input_sha256 == (found,)
    assert result.uploads[0]["sha256"] == found


def is_safetensors(result: Result) -> None:
    assert result.uploads[0]["format"] == "safetensors"
    assert result.report.output_format == "safetensors"


def is_torch(result: Result) -> None:
    assert result.uploads[0]["format"] == "torch"
    assert loaded(result).keys() == {"w.0.weight", "w.1.weight", "w.1.bias"}


LIGHTNING = {
    "state_dict": STATE, "epoch": 3, "pytorch-lightning_version": "2.4.0",
    "optimizer_states": [{"state": {0: {"step": 5, "exp_avg": noise(96, 64)}}}],
}  # fmt: skip
TRAINING = {
    "model": STATE, "epoch": 3,
    "optimizer": {"state": {0: {"exp_avg": noise(96, 64), "exp_avg_sq": noise(96, 64)}}},
}  # fmt: skip


def keeps_the_rest(path: str, state: str) -> Any:
    def also(result: Result) -> None:
        assert result.report.weights_path == path
        assert any(repr(path) in note for note in result.report.notes)
        assert any("optimizer state" in note for note in result.report.notes)
        found, sent = (
            loaded(result),
            torch.load(io.BytesIO(result.sent["model.pt"]), weights_only=True),
        )
        assert found.keys() == sent.keys()
        assert found["epoch"] == 3
        torch.testing.assert_close(found[state], sent[state], rtol=0, atol=0)
        assert found[path].keys() == {"w.0.weight", "w.1.weight", "w.1.bias"}

    return also


def optimizer_is_gone(result: Result) -> None:
    assert loaded(result).keys() == {"model", "epoch"}


def tied() -> dict[str, bytes]:
    return pt({"emb.weight": W, "head.weight": W, "norm": torch.ones(3)})


def is_once(result: Result) -> None:
    assert result.layer("head.weight").alias_of == "emb.weight"
    found = loaded(result)
    assert found.keys() == {"emb.0.weight", "emb.1.weight", "norm"}
    assert result.report.parameters_before == 96 * 64 + 3


def equal_bytes_once(result: Result) -> None:
    assert result.layer("head.weight").alias_of == "emb.weight"
    assert result.tensors().keys() == {"emb.0.weight", "emb.1.weight"}


def logical_bytes(result: Result) -> None:
    """A slice of 96 rows out of a storage of 9,600: 24 KB, not 2.4 MB."""
    assert result.layer("part.weight").bytes_before == 96 * 64 * 4
    assert result.layer("turned.weight").bytes_before == 96 * 64 * 4
    assert result.path.stat().st_size < 100_000
    product_is(result, "turned.weight", low(64, 96, 3).t())


def sliced() -> dict[str, bytes]:
    large = low(9600, 64, 2)
    return pt({"part.weight": large[96:192], "turned.weight": low(64, 96, 3).t()})


def sharded_out(result: Result) -> None:
    with tarfile.open(result.path) as tar:
        names = set(tar.getnames())
    assert names == {
        "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json",
    }  # fmt: skip


TAKEN = [
    Taken(
        id="a flipped byte, no SHA-256 sent",
        files=lambda: one(flipped(), "model.safetensors"),
        layers=LAYERS | {"w.weight": kept(Reason.KEEP_DENSE_REQUESTED)},
        request={"layers": [{"match": "w.weight", "keep_dense": True}]},
        also=flip_is_in_the_report,
    ),
    Taken(
        id="safetensors named .pt",
        files=lambda: one(st(STATE)["model.safetensors"], "model.pt"),
        layers=LAYERS,
        also=is_safetensors,
    ),
    Taken(
        id="torch named .safetensors",
        files=lambda: one(pt(STATE)["model.pt"], "model.safetensors"),
        layers=LAYERS,
        also=is_torch,
    ),
    *(wrapped(p) for p in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")),
    Taken(
        id="Lightning", files=lambda: pt(LIGHTNING), layers=LAYERS,
        also=keeps_the_rest("state_dict", "optimizer_states"),
    ),
    Taken(
        id="a training checkpoint", files=lambda: pt(TRAINING), layers=LAYERS,
        also=keeps_the_rest("model", "optimizer"),
    ),
    Taken(
        id="a training checkpoint, the optimizer dropped", files=lambda: pt(TRAINING),
        layers=LAYERS, request={"output": {"drop_optimizer": True}}, also=optimizer_is_gone,
    ),
    Taken(
        id="exp_avg among the weights",
        files=lambda: pt({"w.weight": W, "w.weight.exp_avg": noise(96, 64)}),
        layers={"w.weight": rank(2), "w.weight.exp_avg": passed(Reason.OPTIMIZER_STATE)},
    ),
    Taken(
        id="shards as several uploads", files=shards,
        layers={"a.weight": rank(2), "b.weight": rank(3)}, also=sharded_out,
    ),
    Taken(
        id="shards in one tar", files=lambda: tar_of(shards()),
        layers={"a.weight": rank(2), "b.weight": rank(3)}, also=sharded_out,
    ),
    Taken(
        id="a tied embedding and head, one storage", files=tied,
        layers={
            "emb.weight": rank(2), "norm": VECTOR,
            "head.weight": (Action.ALIAS, Reason.TIED, None),
        },
        also=is_once,
    ),
    Taken(
        id="a tied embedding and head, equal bytes",
        files=lambda: st({"emb.weight": W, "head.weight": W.clone()}),
        layers={"emb.weight": rank(2), "head.weight": (Action.ALIAS, Reason.TIED, None)},
        also=equal_bytes_once,
    ),
    Taken(
        id="a slice of a larger storage, and a transposed tensor", files=sliced,
        layers={"part.weight": rank(2), "turned.weight": rank(3)}, also=logical_bytes,
    ),
]  # fmt: skip
