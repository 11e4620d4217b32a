"""The weight that makes the model's output, by walking back from it."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

# What may stand between the output layer and the output without being a layer itself: of the
# first kind only the first input is followed, the others say shapes and indices.
_SHAPING = frozenset(
    (
        *("Cast", "CastLike", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Expand"),
        *("Transpose", "Gather", "Slice", "Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Dropout"),
        *("GlobalAveragePool", "AveragePool", "ReduceMean"),
    )
)
_COMBINING = frozenset(("Add", "Sub", "Mul", "Div"))
_LAYERS = frozenset(("Gemm", "MatMul", "Conv", "ConvTranspose"))
_RESHAPING = frozenset(("Transpose", "Identity", "Cast", "CastLike", "Reshape"))


def output_weight(model: ModelProto, output: str, placeholders: frozenset[str]) -> str | None:
    """The placeholder that the nearest layer before `output` multiplies by; None where the walk
    meets anything else first, or two layers at once."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    frontier, seen = [output], {output}
    found: set[str] = set()
    while frontier:
        node = makers.get(frontier.pop())
        if node is None:
            continue
        if node.op_type in _LAYERS:
            weights = {w for name in node.input[:2] if (w := _weight(name, makers, placeholders))}
            if not weights:
                return None  # a product of two activations, such as attention
            found |= weights
            continue
        if node.op_type in _SHAPING:
            inputs = node.input[:1]
        elif node.op_type in _COMBINING:
            inputs = node.input[:]
        elif node.op_type == "Constant":
            continue
        else:
            return None
        for name in inputs:
            if name and name not in seen:
                seen.add(name)
                frontier.append(name)
    return found.pop() if len(found) == 1 else None


def _weight(name: str, makers: dict[str, NodeProto], placeholders: frozenset[str]) -> str | None:
    """The placeholder behind a value, seen through transposes and casts."""
    while name not in placeholders:
        node = makers.get(name)
        if node is None or node.op_type not in _RESHAPING:
            return None
        name = node.input[0]
    return name
