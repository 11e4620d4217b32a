"""Where a graph applies its weights as layers whose inputs are known how to take.

A weight [M, N] that multiplies features [..., N], a convolution's kernel, or an embedding's table.
What is left out: a weight that several nodes apply, one that lies transposed in the file ([N, M]),
a grouped convolution, and one that is first cut or joined with others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto
from torch import nn

from worker.evaluation.template.attributes import integer, integers, real, text
from worker.evaluation.template.binding import Binding
from worker.evaluation.template.replace import uses_of


@dataclass(frozen=True, kw_only=True)
class Place:
    """`x` and `y` are the graph's values that go in and come out; the module, without memory, is
    the layer that does the same to `x` with `margins` around it, as functional.pad takes them."""

    x: str
    y: str
    module: nn.Module
    margins: tuple[int, ...] = ()


def places_of(model: ModelProto, binding: Binding) -> dict[str, Place]:
    """By the checkpoint's names of the weights."""
    uses = uses_of(model)
    outputs = frozenset(value.name for value in model.graph.output)
    users = Counter(binding.names.values())
    found: dict[str, Place] = {}
    for tensor in model.graph.initializer:
        name = binding.names.get(tensor.name)
        if name is None or users[name] > 1 or tensor.name in outputs:
            continue
        place = _place(tensor, uses)
        if place is not None:
            found[name] = place
    return found


def _place(tensor: TensorProto, uses: dict[str, list[NodeProto]]) -> Place | None:
    nodes = [node for node in uses.get(tensor.name, []) if node.op_type != "Shape"]
    dims = list(tensor.dims)
    if len(nodes) != 1 or list(nodes[0].input).count(tensor.name) != 1 or 0 in dims:
        return None
    (node,) = nodes
    second = len(node.input) > 1 and node.input[1] == tensor.name
    if node.op_type == "Conv" and second:
        return _convolution(node, dims)
    if len(dims) != 2:
        return None
    if node.op_type == "Gather" and not second and integer(node, "axis", 0) == 0:
        return _made(node, node.input[1], nn.Embedding(dims[0], dims[1], device="meta"))
    if node.op_type == "Gemm" and second and integer(node, "transB", 0):
        plain = integer(node, "transA", 0) == 0 and real(node, "alpha", 1.0) == 1.0
        return _linear(node, dims) if plain else None
    if node.op_type == "Transpose" and integers(node, "perm") in ([], [1, 0]):
        products = uses.get(node.output[0], [])
        if len(products) == 1 and products[0].op_type == "MatMul":
            features, flipped = products[0].input
            return _linear(products[0], dims) if features != node.output[0] == flipped else None
    return None


def _linear(node: NodeProto, dims: list[int]) -> Place:
    m, n = dims
    return _made(node, node.input[0], nn.Linear(n, m, bias=False, device="meta"))


def _convolution(node: NodeProto, dims: list[int]) -> Place | None:
    spatial = len(dims) - 2
    if spatial not in (1, 2) or integer(node, "group", 1) != 1:
        return None
    if text(node, "auto_pad") not in ("", "NOTSET", "VALID"):
        return None
    strides, dilations = (
        integers(node, name) or [1] * spatial for name in ("strides", "dilations")
    )
    pads = integers(node, "pads") or [0] * (2 * spatial)  # the beginnings, then the ends
    if (len(strides), len(dilations), len(pads)) != (spatial, spatial, 2 * spatial):
        return None
    kind = nn.Conv1d if spatial == 1 else nn.Conv2d
    module = kind(
        dims[1],
        dims[0],
        tuple(dims[2:]),  # type: ignore[arg-type]
        stride=tuple(strides),  # type: ignore[arg-type]
        dilation=tuple(dilations),  # type: ignore[arg-type]
        device="meta",
    )
    pairs = [(pads[axis], pads[axis + spatial]) for axis in reversed(range(spatial))]
    return _made(node, node.input[0], module, tuple(side for pair in pairs for side in pair))


def _made(node: NodeProto, x: str, module: nn.Module, margins: tuple[int, ...] = ()) -> Place:
    return Place(x=x, y=node.output[0], module=module, margins=margins)
