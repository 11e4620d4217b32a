"""Biases that a compressed layer was given and the graph does not have: added after its product."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, TensorProto, helper

from rankpress.errors import EvaluationMismatch
from rankpress.schemas.manifest import ManifestLayer
from rankpress.schemas.template import STATE_DICT
from worker.evaluation.template.binding import Binding

BIAS, _RAW, _SHAPED = "/bias", "/raw", "/bias/shaped"
_PRODUCTS = frozenset(("Gemm", "MatMul", "Conv"))


def with_new_biases(
    model: ModelProto, binding: Binding, layers: Mapping[str, ManifestLayer]
) -> ModelProto:
    """The graph with a placeholder `<weight>/bias` for each layer whose bias the original lacked;
    the graph itself when there is none. `layers` is the manifest's entry of each placeholder.

    Raises EvaluationMismatch for a weight that the graph uses in another way than to multiply.
    """
    known = frozenset(binding.names.values())
    new = {
        name: layer
        for name, layer in layers.items()
        if layer.bias is not None and layer.bias[0] not in known
    }
    if not new:
        return model
    biased = ModelProto()
    biased.CopyFrom(model)
    del biased.graph.node[:]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    holder = {name: name for name in new}
    lengths: dict[str, int] = {}
    for node in model.graph.node:
        weight = holder.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type == "Transpose" and node.input[0] in holder:
            holder[node.output[0]] = holder[node.input[0]]
        elif weight is not None and node.op_type in _PRODUCTS:
            flipped = node.op_type == "Conv" or node.input[1] != weight or _transposes(node)
            lengths[weight] = int(weights[weight].dims[0 if flipped else -1])
            biased.graph.node.extend(_added(node, weights[weight]))
            continue
        elif any(name in holder for name in node.input) and node.op_type != "Shape":
            raise EvaluationMismatch(
                "A compressed layer has a bias that the original lacked, and the template uses its "
                f"weight by {node.op_type[:40]!r}, to which none can be added."
            )
        biased.graph.node.append(node)
    for name, length in lengths.items():
        bias = TensorProto(name=name + BIAS, data_type=weights[name].data_type, dims=[length])
        bias.data_location = TensorProto.EXTERNAL
        bias.external_data.add(key="location", value=STATE_DICT)
        biased.graph.initializer.append(bias)
    return biased


def _transposes(node: NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)


def _added(node: NodeProto, weight: TensorProto) -> list[NodeProto]:
    """The product under another name, and its sum with the bias under the old one."""
    output = node.output[0]
    product = NodeProto()
    product.CopyFrom(node)
    product.output[0] = output + _RAW
    name = weight.name + BIAS
    if node.op_type != "Conv":  # [..., M] + [M]
        return [product, helper.make_node("Add", [output + _RAW, name], [output])]
    # [B, M, ...] + [M, 1, ...]
    shape = [int(weight.dims[0]), *(1 for _ in weight.dims[2:])]
    return [
        product,
        helper.make_node("Constant", [], [output + _SHAPED + "/shape"], value_ints=shape),
        helper.make_node("Reshape", [name, output + _SHAPED + "/shape"], [output + _SHAPED]),
        helper.make_node("Add", [output + _RAW, output + _SHAPED], [output]),
    ]
