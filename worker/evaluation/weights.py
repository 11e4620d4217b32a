"""The compressed file's tensors under the names of the original state_dict."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from rankpress.names import Kind, OutputLayout
from rankpress.schemas.manifest import Manifest, ManifestLayer
from worker.tensors import Checkpoint


@dataclass(frozen=True)
class Weights:
    """A checkpoint seen by the original names; without a manifest it is the dense input."""

    checkpoint: Checkpoint
    manifest: Manifest | None = None
    _layers: dict[str, ManifestLayer] = field(init=False, repr=False)
    _moved: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        factored = self.manifest is not None and self.manifest.layout is OutputLayout.FACTORS
        layers = self.manifest.layers if self.manifest is not None and factored else ()
        object.__setattr__(self, "_layers", {layer.name: layer for layer in layers})
        object.__setattr__(self, "_moved", dict(layer.bias for layer in layers if layer.bias))

    @property
    def factorised(self) -> frozenset[str]:
        """The original names of the tensors that were written as factors."""
        return frozenset(self._layers)

    def holder(self, name: str) -> str:
        """The name under which the file holds the tensor: itself, unless it is an alias."""
        aliases = self.manifest.aliases if self.manifest else {}
        return aliases.get(name, name)

    def layer(self, name: str) -> ManifestLayer | None:
        """The manifest's entry when the tensor was written as factors."""
        return self._layers.get(self.holder(name))

    def stored(self, name: str) -> torch.Tensor:
        """A tensor that was not factorised. Raises KeyError."""
        if name in self._moved:
            return self.checkpoint.tensor(self._moved[name])
        return self.checkpoint.tensor(self.holder(name))

    def bias(self, layer: ManifestLayer, stored: str | None) -> torch.Tensor | None:
        """The bias of a factorised layer, which may have been given one. `stored` is the key that
        it has in the original, None where it had none."""
        if layer.bias is not None:
            return self.checkpoint.tensor(layer.bias[1])
        return None if stored is None else self.stored(stored)

    def factors(self, layer: ManifestLayer) -> tuple[torch.Tensor, torch.Tensor]:
        """(left, right) as written: left is applied last. Raises KeyError."""
        return self.checkpoint.tensor(layer.left), self.checkpoint.tensor(layer.right)

    def dense(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The tensor in its original shape, left @ right multiplied in `dtype`. Raises KeyError."""
        layer = self.layer(name)
        if layer is None:
            return self.stored(name).to(dtype)
        left, right = self.factors(layer)
        return multiply_back(layer, left.to(dtype), right.to(dtype))


def multiply_back(layer: ManifestLayer, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ right in the layer's stored shape.

    matrix: left [m, k], right [k, n]. convolution: left [out, k, 1, ...], right [k, in, *kernel].
    convolution_spatial: right [k, in, 1, kw], left [out, k, kh, 1].
    experts: left [E, m, k], right [E, k, n], padded to the largest rank.
    """
    if layer.kind is Kind.CONVOLUTION_SPATIAL:
        return torch.einsum("oky,kix->oiyx", left.squeeze(3), right.squeeze(2))
    if layer.kind is Kind.EXPERTS:
        return (left @ right).reshape(layer.shape)
    return (left.flatten(1) @ right.flatten(1)).reshape(layer.shape)
