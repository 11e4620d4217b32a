"""Floating-point operations of one sample through a graph.

The shapes are those of a run: ONNX's own inference loses them behind reshapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from onnx import ModelProto, NodeProto, ValueInfoProto

from worker.evaluation.template.session import Array, Session

_COUNTED = frozenset(("Gemm", "MatMul", "Conv", "LSTM"))
# Operators that multiply, but whose count is not written here: the total would be too small.
_UNCOUNTED = frozenset(
    (
        *("ConvTranspose", "DeformConv", "Einsum", "GRU", "RNN", "Attention", "MatMulInteger"),
        *("ConvInteger", "QLinearConv", "QLinearMatMul"),
    )
)
Shapes = dict[str, tuple[int, ...]]


def count_by_shapes(
    model: ModelProto, weights: Mapping[str, Array], inputs: Mapping[str, Array]
) -> int | None:
    """Gemm, MatMul, Conv and LSTM of one run on `inputs`, a multiplication and an addition
    counting two; None where another operator multiplies. What is the same in every run is computed
    once, when the graph is loaded, and counts nothing. Raises EvaluationMismatch."""
    folded = _constants(model)
    nodes = [
        node
        for node in model.graph.node
        if node.op_type in _COUNTED | _UNCOUNTED and node.output[0] not in folded
    ]
    if any(node.op_type in _UNCOUNTED for node in nodes):
        return None
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: array.shape for name, array in inputs.items()}
    asked = sorted(
        {
            name
            for node in nodes
            for name in (*node.input[:3], node.output[0])
            if name and name not in shapes
        }
    )
    if asked:
        traced = ModelProto()
        traced.CopyFrom(model)
        del traced.graph.output[:]
        traced.graph.output.extend(ValueInfoProto(name=name) for name in asked)
        found = Session(traced, weights, torch.device("cpu")).run(asked, inputs)
        shapes |= {name: array.shape for name, array in zip(asked, found, strict=True)}
    return sum(_count(node, shapes) for node in nodes)


def _constants(model: ModelProto) -> set[str]:
    """The values that no input of the graph has a part in."""
    inputs = {value.name for value in model.graph.input}
    found = {tensor.name for tensor in model.graph.initializer} - inputs
    for node in model.graph.node:
        if all(name in found for name in node.input if name):
            found.update(node.output)
    return found


def _count(node: NodeProto, shapes: Shapes) -> int:
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        inner = shapes[node.input[0]][0 if transposed else -1]
        return 2 * prod(shapes[node.output[0]]) * inner
    if node.op_type == "MatMul":
        return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Conv":
        return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "LSTM":
        steps, batch, _ = shapes[node.input[0]]
        return 2 * steps * batch * sum(prod(shapes[name]) for name in node.input[1:3])
    return 0
