"""Weights and inputs as the arrays that ONNX Runtime is given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import ModelProto, TensorProto, ValueInfoProto

from rankpress.schemas.manifest import ManifestLayer
from worker.evaluation.template.biases import BIAS
from worker.evaluation.template.binding import DTYPES, Binding
from worker.evaluation.template.parse import graph_inputs
from worker.evaluation.template.session import Array
from worker.evaluation.template.split import LEFT, RIGHT, SplitGraph
from worker.evaluation.weights import Weights


def factorised(binding: Binding, weights: Weights) -> dict[str, ManifestLayer]:
    """The manifest's entry of each placeholder that was written as factors."""
    return {
        name: layer
        for name, stored in binding.names.items()
        if (layer := weights.layer(stored)) is not None
    }


def weight_arrays(graph: SplitGraph, binding: Binding, weights: Weights) -> dict[str, Array]:
    """For every placeholder its tensor, left @ right, or its two factors where it was split."""
    types = {tensor.name: tensor.data_type for tensor in graph.model.graph.initializer}
    layers = factorised(binding, weights)
    arrays: dict[str, Array] = {
        name + BIAS: as_array(bias, types[name + BIAS])
        for name, layer in layers.items()
        if name + BIAS in types and (bias := weights.bias(layer, None)) is not None
    }
    for name, stored in binding.names.items():
        if name in graph.split:
            left, right = weights.factors(layers[name])
            arrays[name + LEFT] = as_array(left, types[name + LEFT])
            arrays[name + RIGHT] = as_array(right, types[name + RIGHT])
        else:
            dense = weights.dense(stored, _multiplied_in(weights, stored))
            arrays[name] = as_array(dense, types[name])
    return arrays


def input_arrays(
    model: ModelProto, inputs: Mapping[str, torch.Tensor], rows: int | None
) -> dict[str, Array]:
    """In the graph's dtypes, the last row repeated up to `rows` where the graph fixed them."""
    found: dict[str, Array] = {}
    for value in graph_inputs(model):
        tensor = inputs[value.name].cpu()
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        array = _padded(tensor, rows).numpy()
        found[value.name] = array.astype(_numpy_dtype(value), copy=False)
    return found


def _padded(tensor: torch.Tensor, rows: int | None) -> torch.Tensor:
    """The last row repeated up to the only batch size that the graph takes."""
    if rows is None or tensor.shape[0] == rows:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(rows - tensor.shape[0], *tensor.shape[1:])])


def _multiplied_in(weights: Weights, name: str) -> torch.dtype:
    """float64 stays; half factors are multiplied in float32; all else keeps its own dtype."""
    layer = weights.layer(name)
    if layer is None:
        return weights.stored(name).dtype
    return torch.float64 if layer.dtype == "float64" else torch.float32


def as_array(tensor: torch.Tensor, data_type: int) -> Array:
    """In the type of its placeholder, which may be the wider one of a half."""
    wanted = torch.float32 if data_type == TensorProto.FLOAT else tensor.dtype
    found: Array = tensor.detach().to("cpu", wanted).contiguous().numpy()
    return found


def _numpy_dtype(value: ValueInfoProto) -> np.dtype[np.generic]:
    return np.dtype(DTYPES[value.type.tensor_type.elem_type])
