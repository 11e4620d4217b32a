"""Which initializers of a graph are weights: a layer multiplies by them, or takes rows of them."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto

# Inputs by position at which an operator takes a weight.
_WEIGHTS: dict[str, frozenset[int]] = {
    **dict.fromkeys(("MatMul", "Gemm"), frozenset((0, 1))),
    **dict.fromkeys(("Conv", "ConvTranspose"), frozenset((1,))),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), frozenset((1, 2))),
    "Gather": frozenset((0,)),
    "Einsum": frozenset(range(8)),
}
# What leaves a weight a weight: all its numbers, some of them, or with others.
_SHAPING = frozenset(
    (
        *("Transpose", "Identity", "Cast", "CastLike", "Reshape", "Flatten", "Unsqueeze"),
        *("Squeeze", "Slice", "Split", "Expand", "Gather"),
    )
)


def layer_weights(model: ModelProto, initializers: Iterable[str]) -> frozenset[str]:
    """Those of the initializers that reach a layer's weight as they are, or but reshaped, cut or
    joined. A table that is added, a mask or a scale is none."""
    behind = {name: frozenset((name,)) for name in initializers}
    found: set[str] = set()
    for node in model.graph.node:
        places = _WEIGHTS.get(node.op_type, frozenset())
        for place, name in enumerate(node.input):
            if place in places:
                found |= behind.get(name, frozenset())
        if node.op_type == "Concat":
            held = frozenset().union(*(behind.get(name, frozenset()) for name in node.input))
        elif node.op_type in _SHAPING and node.input:
            held = behind.get(node.input[0], frozenset())
        else:
            continue
        for name in node.output:
            behind[name] = held
    return frozenset(found)
