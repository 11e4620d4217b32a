"""Writing an ONNX model: the graph with its factorised layers as two, then each initializer, one in
memory at a time; what was not changed is copied as it lies in the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import torch
from onnx import GraphProto, ModelProto, TensorProto

from rankpress.formats import dtypes
from rankpress.formats.onnx import GRAPH, INITIALIZER, MAX_BYTES, RAW
from rankpress.formats.protobuf import prefix
from rankpress.names import OutputLayout
from rankpress.schemas.manifest import METADATA_KEY, Manifest
from worker.checkpoint.files import octets, write_octets
from worker.checkpoint.onnx_in import OnnxCheckpoint
from worker.evaluation.template.split import SplitGraph, split_graph
from worker.tensors import OutputTensor


@dataclass(frozen=True, kw_only=True)
class _Written:
    """An initializer's message: its first bytes, and `length` bytes of values after them."""

    head: bytes
    length: int
    load: Callable[[], torch.Tensor]
    name: str

    @property
    def size(self) -> int:
        return len(self.head) + self.length


def factored_graph(source: OnnxCheckpoint, manifest: Manifest | None) -> SplitGraph:
    """The graph that is written, with placeholders: two nodes for each that took a factorised
    weight, and where there is no such form (`whole`), the factors multiplied back."""
    layers = {
        layer.name: layer
        for layer in (manifest.layers if manifest is not None else ())
        if manifest is not None and manifest.layout is OutputLayout.FACTORS
    }
    factors = {name: (layer.left, layer.right) for name, layer in layers.items()}
    graph = split_graph(source.graph, layers, factors, multiply=True)
    model = graph.model
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if manifest is not None:
        model.metadata_props.add(key=METADATA_KEY, value=manifest.model_dump_json())
    return graph


def write_onnx(
    file: IO[bytes],
    source: OnnxCheckpoint,
    outputs: Sequence[OutputTensor],
    manifest: Manifest | None,
) -> None:
    """`outputs` are those of the plan: what has a source is copied bit for bit. Raises ValueError
    for a model beyond protobuf's bound."""
    model = factored_graph(source, manifest).model
    changed = {output.name: output for output in outputs if output.source is None}
    written = [_initializer(source, tensor, changed) for tensor in model.graph.initializer]
    prefixes = [prefix(INITIALIZER, each.size) for each in written]
    del model.graph.initializer[:]
    before, after = _around(model.graph, INITIALIZER, GraphProto)
    length = len(before) + len(after) + sum(len(p) for p in prefixes) + sum(w.size for w in written)
    head, tail = _around(model, GRAPH, ModelProto)
    if length + len(head) + len(tail) > MAX_BYTES:
        raise ValueError("the ONNX model is larger than protobuf allows")
    file.write(head + prefix(GRAPH, length) + before)
    for start, each in zip(prefixes, written, strict=True):
        file.write(start + each.head)
        write_octets(file, octets(each.load()), each.length, each.name)
    file.write(after + tail)


def _initializer(
    source: OnnxCheckpoint, tensor: TensorProto, changed: Mapping[str, OutputTensor]
) -> _Written:
    output = changed.get(tensor.name)
    if output is None:
        kept = source.initializers[tensor.name]
        begin, end = kept.message
        return _Written(
            head=b"", length=end - begin, load=lambda: source.message(kept), name=tensor.name
        )
    described = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=output.shape)
    length = dtypes.nbytes(output.dtype, output.shape)
    return _Written(
        head=described.SerializeToString(deterministic=True) + prefix(RAW, length),
        length=length,
        load=output.load,
        name=tensor.name,
    )


def _around(
    message: GraphProto | ModelProto, number: int, kind: type[GraphProto] | type[ModelProto]
) -> tuple[bytes, bytes]:
    """The bytes of the fields before a field and of those after it, in the order of protobuf."""
    halves = []
    for is_before in (True, False):
        half = kind()
        half.CopyFrom(message)
        for field in message.DESCRIPTOR.fields:
            if field.number == number or (field.number < number) != is_before:
                half.ClearField(field.name)
        halves.append(half.SerializeToString(deterministic=True))
    return halves[0], halves[1]
