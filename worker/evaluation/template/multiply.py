"""A weight multiplied back inside the graph, where its consumers have no form with two factors: the
file is smaller all the same, and the runtime does it once, when it loads the graph."""

from __future__ import annotations

from onnx import NodeProto, helper

from rankpress.names import Kind
from rankpress.schemas.manifest import ManifestLayer
from worker.evaluation.template.replace import Site


def multiplied(name: str, layer: ManifestLayer, site: Site) -> list[NodeProto]:
    """The nodes that make the value `name` of its factors, in the layer's shape.

    The same products as `worker.evaluation.weights.multiply_back`.
    """
    left, right = site.factors[name]
    if layer.kind in (Kind.MATRIX, Kind.EXPERTS):
        return [helper.make_node("MatMul", [left, right], [name])]
    k, out = layer.rank, layer.shape[0]
    nodes: list[NodeProto] = []

    def shaped(value: str, shape: list[int], output: str | None = None) -> str:
        wanted = site.fresh(name + "/shape")
        found = output or site.fresh(name + "/shaped")
        nodes.append(helper.make_node("Constant", [], [wanted], value_ints=shape))
        nodes.append(helper.make_node("Reshape", [value, wanted], [found]))
        return found

    def moved(value: str, perm: list[int], output: str | None = None) -> str:
        found = output or site.fresh(name + "/moved")
        nodes.append(helper.make_node("Transpose", [value], [found], perm=perm))
        return found

    def product(a: str, b: str) -> str:
        found = site.fresh(name + "/product")
        nodes.append(helper.make_node("MatMul", [a, b], [found]))
        return found

    if layer.kind is Kind.CONVOLUTION:
        whole = product(shaped(left, [out, k]), shaped(right, [k, -1]))
        shaped(whole, list(layer.shape), name)
        return nodes
    _, into, kh, kw = layer.shape
    # left [out, k, kh, 1] as [out kh, k], right [k, in, 1, kw] as [k, in kw].
    tall = shaped(moved(left, [0, 2, 1, 3]), [out * kh, k])
    whole = product(tall, shaped(right, [k, into * kw]))
    moved(shaped(whole, [out, kh, into, kw]), [0, 2, 1, 3], name)
    return nodes
