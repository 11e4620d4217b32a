"""The graph with its factorised layers as two smaller ones.

For measuring how fast a template runs, whose scores are taken with left @ right bound under the
original name, right for every consumer; and for a whole ONNX model that is handed back. Each
consumer of a factorised weight is replaced by two nodes. A weight with a consumer that has no such
form stays whole in a template, since the runtime would multiply constant factors back when it loads
them; in a model that is handed back the graph does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from rankpress.names import Kind
from rankpress.schemas.manifest import ManifestLayer
from rankpress.schemas.template import STATE_DICT
from worker.evaluation.template.multiply import multiplied
from worker.evaluation.template.replace import Replacement, Site, replaced, uses_of

LEFT, RIGHT = "/left", "/right"


@dataclass(frozen=True, kw_only=True)
class SplitGraph:
    """The new graph; `split` names the placeholders that became two, `whole` those that did not."""

    model: ModelProto
    split: tuple[str, ...]
    whole: tuple[str, ...]


def split_graph(
    model: ModelProto,
    layers: Mapping[str, ManifestLayer],
    factors: Mapping[str, tuple[str, str]] | None = None,
    *,
    multiply: bool = False,
) -> SplitGraph:
    """`layers` is the manifest's entry of each factorised placeholder; `factors` the names that its
    left and right get, by default `<name>/left` and `<name>/right`. With `multiply`, placeholders
    that cannot be split become two all the same, and the graph multiplies them."""
    names = factors or {name: (name + LEFT, name + RIGHT) for name in layers}
    site = Site(
        uses=uses_of(model),
        outputs=frozenset(value.name for value in model.graph.output),
        factors=names,
        taken=names_of(model) | {name for pair in names.values() for name in pair},
    )
    plans = {name: _plan(name, layer, site) for name, layer in layers.items() if name in site.uses}
    split = {name for name, plan in plans.items() if plan is not None}
    whole = sorted(set(layers) - split)
    new_nodes = {
        node.output[0]: new for plan in plans.values() if plan is not None for node, new in plan
    }
    new = ModelProto()
    new.CopyFrom(model)
    del new.graph.node[:]
    if multiply:
        for name in whole:
            new.graph.node.extend(multiplied(name, layers[name], site))
    for node in model.graph.node:
        new.graph.node.extend(new_nodes.get(node.output[0], [node]))
    two = set(layers) if multiply else split
    del new.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.name in two:
            new.graph.initializer.extend(_factors(tensor, layers[tensor.name], names[tensor.name]))
        else:
            new.graph.initializer.append(tensor)
    # Older graphs list their initializers among the inputs, and would ask for the whole weight.
    kept = [value for value in model.graph.input if value.name not in two]
    del new.graph.input[:]
    new.graph.input.extend(kept)
    return SplitGraph(model=new, split=tuple(sorted(split)), whole=tuple(whole))


def names_of(model: ModelProto) -> set[str]:
    """Every name that a value of the graph has."""
    graph = model.graph
    held = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    return {x.name for x in held} | {
        name for node in graph.node for name in (*node.input, *node.output)
    }


def _plan(name: str, layer: ManifestLayer, site: Site) -> list[Replacement] | None:
    """What replaces each consumer; None when one of them cannot be replaced."""
    plan: list[Replacement] = []
    for node in site.uses[name]:
        if list(node.input).count(name) != 1 or name in site.outputs:
            return None
        new = replaced(name, layer, node, site)
        if new is None:
            return None
        plan += new
    return plan


def _factors(
    tensor: TensorProto, layer: ManifestLayer, names: tuple[str, str]
) -> list[TensorProto]:
    """Placeholders of the shapes that the factors are stored in: right, then left."""
    k, dims = layer.rank, list(tensor.dims)
    if layer.kind is Kind.CONVOLUTION:
        left, right = [dims[0], k, *(1 for _ in dims[2:])], [k, *dims[1:]]
    elif layer.kind is Kind.CONVOLUTION_SPATIAL:
        left, right = [dims[0], k, dims[2], 1], [k, dims[1], 1, dims[3]]
    else:  # a matrix, or one for each expert
        left, right = [*dims[:-1], k], [*dims[:-2], k, dims[-1]]
    return [
        placeholder(name, tensor.data_type, shape)
        for name, shape in zip(reversed(names), (right, left), strict=True)
    ]


def placeholder(name: str, data_type: int, shape: list[int]) -> TensorProto:
    """An initializer whose values come from beside the graph."""
    found = TensorProto(name=name, data_type=data_type, dims=shape)
    found.data_location = TensorProto.EXTERNAL
    found.external_data.add(key="location", value=STATE_DICT)
    return found
