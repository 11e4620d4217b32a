"""A whole ONNX model as a checkpoint: its initializers mapped from the file, and its graph without
their values, checked as a template is before ONNX Runtime sees it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from onnx import TensorProto

from rankpress.errors import CorruptFile, UnsupportedFormat
from rankpress.formats import dtypes
from rankpress.formats.limits import Limits
from rankpress.formats.onnx import (
    GRAPH,
    INITIALIZER,
    Initializer,
    Span,
    check_whole,
    metadata_value,
    read_onnx,
)
from rankpress.formats.protobuf import prefix
from rankpress.names import FileFormat, Reason
from rankpress.schemas.manifest import METADATA_KEY
from worker.checkpoint.mapped import Window
from worker.evaluation.template.consumers import layer_weights
from worker.evaluation.template.head import output_weight
from worker.evaluation.template.interface import floating_outputs, preferred
from worker.evaluation.template.parse import MAX_BYTES, is_placeholder, read_graph
from worker.evaluation.template.source import MODEL
from worker.evaluation.template.split import names_of, placeholder
from worker.tensors import StoredTensor, dtype_of

LEAST_IR_VERSION = 4  # before, every weight had to be an input of the graph too
# Smaller ones, and those that say shapes and scales, stay in the graph: shapes are inferred there.
_LEAST_BYTES = 1024


class OnnxCheckpoint:
    """`graph` is the model with a placeholder for every initializer that is mapped; a tensor is the
    one that the file holds, also of a graph that was compressed here."""

    format = FileFormat.ONNX
    weights_path: str | None = None
    notes: tuple[str, ...] = ()
    original: Path | None = None  # the file that holds this checkpoint and nothing else

    def __init__(self, window: Window, limits: Limits) -> None:
        """Raises `UnsupportedFormat`, `CorruptFile` and `PayloadTooLarge`."""
        self._file = window
        with window.open() as file:
            self.layout = read_onnx(file, window.size, limits)
            check_whole(self.layout)
            manifest = metadata_value(
                file, window.size, self.layout, METADATA_KEY, limits.max_header_bytes
            )
        self.metadata = {} if manifest is None else {METADATA_KEY: manifest}
        self.initializers: Mapping[str, Initializer] = {
            tensor.name: tensor for tensor in self.layout.initializers
        }
        mapped = frozenset(t.name for t in self.layout.initializers if _is_mapped(t))
        self.graph = read_graph(self._without_values(mapped), MODEL)
        found = {t.name for t in self.graph.graph.initializer if is_placeholder(t)}
        if found != mapped or len(self.graph.graph.initializer) != len(self.initializers):
            raise CorruptFile("The model's initializers cannot be told apart.")
        if self.graph.ir_version < LEAST_IR_VERSION:
            raise UnsupportedFormat(
                f"The model is of ONNX IR version {self.graph.ir_version}, of before 2019; export "
                f"it again. {MODEL.hint}"
            )
        matrices = (
            t.name
            for t in self.layout.initializers
            if t.name in mapped and len(t.shape) > 1 and t.dtype in dtypes.FACTORISABLE
        )
        weights = layer_weights(self.graph, matrices)
        self.tensors = tuple(
            _stored(tensor, mapped, weights)
            for tensor in self.layout.initializers
            if tensor.dtype is not None
        )

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that a value of the graph has: no factor may take it."""
        return frozenset(names_of(self.graph))

    @cached_property
    def output_weight(self) -> str | None:
        """The initializer that makes the output that would be scored, where it can be told."""
        outputs = floating_outputs(self.graph)
        if not outputs:
            return None
        held = frozenset(t.name for t in self.tensors if t.passthrough is None)
        return output_weight(self.graph, preferred(outputs).name, held)

    def tensor(self, name: str) -> torch.Tensor:
        """Mapped. What does not lie in the file as in memory comes as the bytes of its message."""
        tensor = self.initializers[name]
        if tensor.values is None or tensor.dtype is None:
            return self.message(tensor)
        begin, end = tensor.values
        if begin == end:
            return torch.empty(tensor.shape, dtype=dtype_of(tensor.dtype))
        return self._file.vector(begin, end - begin, tensor.dtype).view(tensor.shape)

    def message(self, tensor: Initializer) -> torch.Tensor:
        """The initializer as it is written, values included."""
        begin, end = tensor.message
        return self._file.octets(begin, end - begin)

    def close(self) -> None:
        self._file.close()

    def _without_values(self, mapped: frozenset[str]) -> bytes:
        """The model's bytes with a placeholder for each mapped initializer."""
        kept = [*self.layout.graph, *self.layout.model]
        kept += [t.message for t in self.layout.initializers if t.name not in mapped]
        if (size := sum(end - begin for begin, end in kept)) > MAX_BYTES:
            raise UnsupportedFormat(
                f"The model's graph takes {size} bytes without its weights, more than {MAX_BYTES}: "
                "are they constants in its nodes? Export them as initializers."
            )
        inside = [self._bytes(span) for span in self.layout.graph]
        for tensor in self.layout.initializers:
            if tensor.name in mapped:
                assert tensor.dtype is not None
                code = _CODES[tensor.dtype]
                data = placeholder(tensor.name, code, list(tensor.shape)).SerializeToString()
            else:
                data = self._bytes(tensor.message)
            inside += [prefix(INITIALIZER, len(data)), data]
        graph = b"".join(inside)
        around = b"".join(self._bytes(span) for span in self.layout.model)
        return around + prefix(GRAPH, len(graph)) + graph

    def _bytes(self, span: Span) -> bytes:
        begin, end = span
        data: bytes = self._file.octets(begin, end - begin).numpy().tobytes()
        return data


# Types that ONNX Runtime takes from memory; halves are widened first.
_CODES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
}


def _is_mapped(tensor: Initializer) -> bool:
    if tensor.values is None or tensor.dtype not in _CODES:
        return False
    begin, end = tensor.values
    return end - begin >= _LEAST_BYTES or (len(tensor.shape) > 1 and end > begin)


def _stored(tensor: Initializer, mapped: frozenset[str], weights: frozenset[str]) -> StoredTensor:
    assert tensor.dtype is not None
    reason = dtypes.passthrough(tensor.dtype)
    if reason is None and len(tensor.shape) > 1 and 0 not in tensor.shape:
        if tensor.name not in mapped:
            reason = Reason.SPECIAL_TENSOR
        elif tensor.name not in weights:
            reason = Reason.NOT_A_WEIGHT
    return StoredTensor(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        nbytes=dtypes.nbytes(tensor.dtype, tensor.shape),
        passthrough=reason,
    )
