"""Under which keys a layer's factors are stored (API: "Keys in the compressed file")."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rankpress.names import Kind


@dataclass(frozen=True, kw_only=True)
class FactorKeys:
    """Keys of one factorised tensor. `bias` is (key in the input, key in the output), if any."""

    right: str
    left: str
    bias: tuple[str, str] | None = None

    @property
    def new(self) -> tuple[str, ...]:
        """The keys that the output gains."""
        return (self.right, self.left, *(self.bias[1:] if self.bias else ()))


def factor_keys(
    name: str,
    kind: Kind,
    taken: Collection[str],
    *,
    adds_bias: bool = False,
    in_graph: bool = False,
) -> FactorKeys | None:
    """The first form of keys that is free, or None. With `adds_bias` the layer gets a bias where
    it had none.

    `X.weight` becomes `X.0.weight` (right) and `X.1.weight` (left), and `X.bias` becomes
    `X.1.bias`: what an nn.Sequential of two layers loads. A tensor not called weight, a stack of
    experts (no Sequential holds it), and a weight whose Sequential keys are `taken` by other
    tensors get `<key>.right` and `<key>.left`, and a bias keeps its key. So do all tensors of a
    graph, which no Sequential loads, and which may apply the left factor first.
    """
    forms = []
    is_layer = name == "weight" or name.endswith(".weight")
    if is_layer and kind is not Kind.EXPERTS and not in_graph:
        prefix = name.removesuffix("weight")
        has_bias = adds_bias or f"{prefix}bias" in taken
        bias = (f"{prefix}bias", f"{prefix}1.bias") if has_bias else None
        forms.append(FactorKeys(right=f"{prefix}0.weight", left=f"{prefix}1.weight", bias=bias))
    forms.append(FactorKeys(right=f"{name}.right", left=f"{name}.left"))
    return next((keys for keys in forms if not any(key in taken for key in keys.new)), None)
