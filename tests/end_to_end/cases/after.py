"""CASES, After it: what compression must not lose or change."""

from __future__ import annotations

from collections import OrderedDict

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import nn

from rankpress.loading import load_compressed
from rankpress.names import Reason
from tests.end_to_end.cases.tools import (
    VECTOR,
    Result,
    Taken,
    low,
    noise,
    one,
    passed,
    rank,
    st,
)  # fmt: skip

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BIASED = {"fc.weight": low(96, 64, 2), "fc.bias": noise(96)}


def bias_is_there(result: Result) -> None:
    found = result.tensors()
    assert found.keys() == {"fc.0.weight", "fc.1.weight", "fc.1.bias"}
    assert torch.equal(found["fc.1.bias"], BIASED["fc.bias"])


def halves() -> dict[str, torch.Tensor]:
    return {f"{str(d).removeprefix('torch.')}.weight": low(96, 64, 2, d) for d in DTYPES}


def dtypes_are_kept(result: Result) -> None:
    for name, weight in halves().items():
        stem = name.removesuffix("weight")
        for key in (f"{stem}0.weight", f"{stem}1.weight"):
            assert result.tensors()[key].dtype == weight.dtype


def metadata_is_kept(result: Result) -> None:
    with safe_open(result.path, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["trained_on"] == "tuesdays"
    assert "rankpress" in metadata


def network() -> nn.Sequential:
    torch.manual_seed(7)
    layers = OrderedDict(
        first=nn.Linear(64, 96),
        norm=nn.BatchNorm1d(96),
        relu=nn.ReLU(),
        last=nn.Linear(96, 80),
    )
    model = nn.Sequential(layers)
    with torch.no_grad():
        model.first.weight.copy_(low(96, 64, 4) / 8)
        model.last.weight.copy_(low(80, 96, 3) / 8)
        model.norm.running_mean.uniform_()
        model.norm.running_var.uniform_(0.5, 2.0)
    return model.eval()


def whole() -> dict[str, bytes]:
    state = {k: v.contiguous() for k, v in network().state_dict().items()}
    return one(save(state), "model.safetensors")


def factors_are_the_trained_ones(result: Result) -> None:
    """A new network, whose own values are random, answers as the old one after a strict load."""
    torch.manual_seed(99)
    fresh = nn.Sequential(
        OrderedDict(
            first=nn.Linear(64, 96), norm=nn.BatchNorm1d(96), relu=nn.ReLU(), last=nn.Linear(96, 80)
        )
    ).eval()
    x = noise(5, 64)
    with torch.inference_mode():
        expected = network()(x)
        assert not torch.allclose(fresh(x), expected, atol=1e-2)
        loaded = load_compressed(fresh, result.path, strict=True)
        torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-4)


def statistics_are_kept(result: Result) -> None:
    before = load(result.sent["model.safetensors"])
    for key in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(result.tensors()[key], before[key])


def all_of_it(result: Result) -> None:
    factors_are_the_trained_ones(result)
    statistics_are_kept(result)


NETWORK_LAYERS = {
    "first.weight": rank(4), "last.weight": rank(3), "first.bias": VECTOR, "last.bias": VECTOR,
    "norm.weight": VECTOR, "norm.bias": VECTOR, "norm.running_mean": VECTOR,
    "norm.running_var": VECTOR, "norm.num_batches_tracked": passed(Reason.INTEGER),
}  # fmt: skip

AFTER = [
    Taken(
        id="bias lost",
        files=lambda: st(BIASED),
        layers={"fc.weight": rank(2), "fc.bias": VECTOR},
        also=bias_is_there,
    ),
    Taken(
        id="dtype changed",
        files=lambda: st(halves()),
        layers={name: rank(2) for name in halves()},
        also=dtypes_are_kept,
    ),
    Taken(
        id="no format: pt in the metadata",
        files=lambda: st(BIASED, trained_on="tuesdays"),
        layers={"fc.weight": rank(2), "fc.bias": VECTOR},
        also=metadata_is_kept,
    ),
    Taken(
        id="factors left at random values",
        files=whole,
        layers=NETWORK_LAYERS,
        also=all_of_it,
    ),
]
