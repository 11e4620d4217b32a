"""What two nodes take the place of one whose weight was factorised: left @ right, in the order in
which the node would have multiplied by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto, helper

from rankpress.names import Kind
from rankpress.schemas.manifest import ManifestLayer
from worker.evaluation.template.attributes import integer, integers, real, text

Replacement = tuple[NodeProto, list[NodeProto]]


@dataclass(frozen=True, kw_only=True)
class Site:
    """The graph around a replacement: who takes each value, and which names are taken. `factors`
    are the names of each weight's (left, right)."""

    uses: Mapping[str, list[NodeProto]]
    outputs: frozenset[str]
    factors: Mapping[str, tuple[str, str]]
    taken: set[str] = field(default_factory=set)

    def fresh(self, base: str) -> str:
        """A name for a new value."""
        name, count = base, 1
        while name in self.taken:
            count += 1
            name = f"{base}{count}"
        self.taken.add(name)
        return name


def uses_of(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes that take each value."""
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if name:
                found.setdefault(name, []).append(node)
    return found


def replaced(
    name: str, layer: ManifestLayer, node: NodeProto, site: Site
) -> list[Replacement] | None:
    """What takes the place of a node that takes the weight; None where there is no such form."""
    left, right = site.factors[name]
    if node.op_type == "Shape":  # exporters make a missing bias from the weight's shape
        end = next((int(a.i) for a in node.attribute if a.name == "end"), None)
        sizes = list(layer.shape)[integer(node, "start", 0) : end]
        return [(node, [helper.make_node("Constant", [], list(node.output), value_ints=sizes)])]
    second = len(node.input) > 1 and node.input[1] == name
    if layer.kind in (Kind.MATRIX, Kind.EXPERTS) and node.op_type == "MatMul":
        if second:
            return [(node, _matmul(node, left, right, site))]
        return [(node, _matmul_first(node, left, right, site))]
    if layer.kind is Kind.MATRIX:
        if node.op_type == "Gemm" and second:
            return [(node, _gemm(node, left, right, site))]
        if node.op_type == "Gather" and node.input[0] == name and integer(node, "axis", 0) == 0:
            return [(node, _gather(node, left, right, site))]
        if node.op_type == "Transpose" and integers(node, "perm") in ([], [1, 0]):
            return _transposed(node, left, right, site)
    if layer.kind is Kind.CONVOLUTION and node.op_type == "Conv" and second:
        if integer(node, "group", 1) != 1:
            return None
        return [(node, _conv(node, left, right, site))]
    if layer.kind is Kind.CONVOLUTION_SPATIAL and node.op_type == "Conv" and second:
        new = _spatial(node, left, right, site)
        return None if new is None else [(node, new)]
    return None


def _between(node: NodeProto, site: Site) -> str:
    return site.fresh(node.output[0] + "/rank")


def _gemm(node: NodeProto, left: str, right: str, site: Site) -> list[NodeProto]:
    """alpha x W^T + beta b, W = left right, as two Gemms; with transB 0, W itself multiplies."""
    transposed = integer(node, "transB", 0)
    first, second = (right, left) if transposed else (left, right)
    between = _between(node, site)
    return [
        helper.make_node(
            "Gemm",
            [node.input[0], first],
            [between],
            transA=integer(node, "transA", 0),
            transB=transposed,
        ),
        helper.make_node(
            "Gemm",
            [between, second, *node.input[2:]],
            list(node.output),
            transB=transposed,
            alpha=real(node, "alpha", 1.0),
            beta=real(node, "beta", 1.0),
        ),
    ]


def _matmul(node: NodeProto, first: str, second: str, site: Site) -> list[NodeProto]:
    """(x first) second."""
    between = _between(node, site)
    return [
        helper.make_node("MatMul", [node.input[0], first], [between]),
        helper.make_node("MatMul", [between, second], list(node.output)),
    ]


def _matmul_first(node: NodeProto, left: str, right: str, site: Site) -> list[NodeProto]:
    """W x = left (right x)."""
    between = _between(node, site)
    return [
        helper.make_node("MatMul", [right, node.input[1]], [between]),
        helper.make_node("MatMul", [left, between], list(node.output)),
    ]


def _gather(node: NodeProto, left: str, right: str, site: Site) -> list[NodeProto]:
    """Rows of left, then times right: an embedding."""
    between = _between(node, site)
    return [
        helper.make_node("Gather", [left, node.input[1]], [between], axis=0),
        helper.make_node("MatMul", [between, right], list(node.output)),
    ]


def _transposed(node: NodeProto, left: str, right: str, site: Site) -> list[Replacement] | None:
    """x W^T = (x right^T) left^T, for every product that takes the transposed weight."""
    value = node.output[0]
    users = site.uses.get(value, [])
    if value in site.outputs or not users:
        return None
    for user in users:
        if user.op_type != "MatMul" or user.input[1] != value or user.input[0] == value:
            return None
    flipped = {factor: site.fresh(factor + "/transposed") for factor in (right, left)}
    turned = [
        helper.make_node("Transpose", [factor], [turned], perm=[1, 0])
        for factor, turned in flipped.items()
    ]
    return [
        (node, turned),
        *((user, _matmul(user, flipped[right], flipped[left], site)) for user in users),
    ]


def _conv(node: NodeProto, left: str, right: str, site: Site) -> list[NodeProto]:
    """The kernel to k channels, then a 1 x 1 convolution with the bias."""
    between = _between(node, site)
    first = NodeProto()
    first.CopyFrom(node)
    del first.input[:], first.output[:]
    first.input.extend([node.input[0], right])
    first.output.append(between)
    return [
        first,
        helper.make_node("Conv", [between, left, *node.input[2:]], list(node.output)),
    ]


def _spatial(node: NodeProto, left: str, right: str, site: Site) -> list[NodeProto] | None:
    """1 x kw along the rows, then kh x 1 along the columns."""
    if integer(node, "group", 1) != 1 or text(node, "auto_pad") not in ("", "NOTSET"):
        return None
    strides = integers(node, "strides") or [1, 1]
    dilations = integers(node, "dilations") or [1, 1]
    top, before, bottom, after = integers(node, "pads") or [0, 0, 0, 0]
    between = _between(node, site)
    return [
        helper.make_node(
            "Conv",
            [node.input[0], right],
            [between],
            strides=[1, strides[1]],
            dilations=[1, dilations[1]],
            pads=[0, before, 0, after],
        ),
        helper.make_node(
            "Conv",
            [between, left, *node.input[2:]],
            list(node.output),
            strides=[strides[0], 1],
            dilations=[dilations[0], 1],
            pads=[top, 0, bottom, 0],
        ),
    ]
