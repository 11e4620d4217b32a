"""A layer that had no bias may be given one, also where its class does more than its base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rankpress.loading import DoesNotFit, load_compressed
from rankpress.names import Kind
from tests.rankpress.loading.compressing_by_hand import Cut, compress, write


class SamePadding(nn.Conv2d):
    """Pads in a forward of its own, as many published networks do."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(inputs, (1, 1, 1, 1)), self.weight, self.bias)


class Scaled(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs * 2, self.weight, self.bias)


class Own(nn.Module):
    """Holds a matrix, and knows of no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))


@pytest.mark.parametrize(
    ("kind", "make", "shape"),
    [
        (Kind.CONVOLUTION, lambda bias: SamePadding(5, 8, 3, bias=bias), (2, 5, 6, 6)),
        (Kind.MATRIX, lambda bias: Scaled(9, 8, bias=bias), (2, 9)),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_a_subclass_takes_a_new_bias(
    kind: Kind, make, shape: tuple[int, ...], nested: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, wanted = (nn.Sequential(make(bias)) for bias in (False, True))
    if not nested:
        model, wanted = model[0], wanted[0]
    prefix = "0." if nested else ""
    tensors, manifest, reference = compress(model.state_dict(), [Cut(f"{prefix}weight", kind, 3)])
    (layer,) = manifest.layers
    key = f"{prefix}1.bias"
    tensors[key] = torch.randn(8)
    layer = layer.model_copy(update={"bias": (f"{prefix}bias", key)})
    path = write(tmp_path / "f", tensors, manifest.model_copy(update={"layers": (layer,)}))
    wanted.load_state_dict({**reference, f"{prefix}bias": tensors[key]})
    loaded = load_compressed(model, path)
    inputs = torch.randn(shape)
    torch.testing.assert_close(loaded(inputs), wanted(inputs), rtol=1e-4, atol=1e-5)


def test_a_module_that_knows_no_bias_does_not(tmp_path: Path) -> None:
    model = nn.Sequential(Own())
    tensors, manifest, _ = compress(model.state_dict(), [Cut("0.weight", Kind.MATRIX, 3)])
    layer = manifest.layers[0].model_copy(update={"bias": ("0.bias", "0.1.bias")})
    tensors["0.1.bias"] = torch.zeros(8)
    path = write(tmp_path / "f", tensors, manifest.model_copy(update={"layers": (layer,)}))
    with pytest.raises(DoesNotFit, match=r"in the file but not in the model: 0\.bias"):
        load_compressed(model, path)
