"""What the graph takes and gives: inputs, the scored output, a batch size that it fixed."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, ValueInfoProto

from rankpress.errors import EvaluationMismatch
from worker.evaluation.architecture import InputSpec, OutputSpec
from worker.evaluation.template.binding import DTYPES

_PREFERRED = "logits"


def input_spec(value: ValueInfoProto, noun: str = "template") -> InputSpec:
    tensor = value.type.tensor_type
    dtype = DTYPES.get(tensor.elem_type)
    if dtype is None or not tensor.HasField("shape") or not tensor.shape.dim:
        raise EvaluationMismatch(
            f"The {noun}'s input {value.name[:80]!r} is no tensor of numbers with a batch axis."
        )
    return InputSpec(name=value.name, dtype=dtype, shape=_sizes(value)[1:])


def scored_output(model: ModelProto, noun: str = "template") -> OutputSpec:
    floating = floating_outputs(model)
    if not floating:
        raise EvaluationMismatch(f"The {noun} has no floating output with a batch axis.")
    chosen = preferred(floating)
    return OutputSpec(name=chosen.name, shape=_sizes(chosen)[1:])


def floating_outputs(model: ModelProto) -> list[ValueInfoProto]:
    return [
        v
        for v in model.graph.output
        if DTYPES.get(v.type.tensor_type.elem_type, "").startswith(("float", "bfloat"))
        and v.type.tensor_type.HasField("shape")
        and v.type.tensor_type.shape.dim
    ]


def preferred(outputs: Sequence[ValueInfoProto]) -> ValueInfoProto:
    """The one that is scored."""
    return next((v for v in outputs if v.name == _PREFERRED), outputs[0])


def _sizes(value: ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(
        int(dim.dim_value) if dim.HasField("dim_value") else None
        for dim in value.type.tensor_type.shape.dim
    )


def fixed_batch(values: Sequence[ValueInfoProto], noun: str = "template") -> int | None:
    sizes = {size for value in values if (size := _sizes(value)[0]) is not None}
    if len(sizes) > 1 or 0 in sizes:
        raise EvaluationMismatch(
            f"The {noun}'s inputs have different fixed batch sizes: {sorted(sizes)}."
        )
    return next(iter(sizes), None)
