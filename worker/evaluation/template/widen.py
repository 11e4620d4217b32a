"""Half-precision graphs as float32 ones: half has no matrix product on a CPU, or a slow one.

Both models are then scored in float32, which is what a chain of linear layers does too.
"""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, ValueInfoProto, numpy_helper

from worker.evaluation.template.parse import is_placeholder

_HALVES = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16))
_DTYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype"))


def widened(model: ModelProto) -> ModelProto:
    """A copy in which every float16 and bfloat16 is float32."""
    wide = ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    for values in (graph.input, graph.output, graph.value_info):
        for value in values:
            _widen_type(value)
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.name in _DTYPE_ATTRIBUTES and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
    return wide


def _widen_type(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type in _HALVES:
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type not in _HALVES:
        return
    if is_placeholder(tensor):
        tensor.data_type = TensorProto.FLOAT
        return
    values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
