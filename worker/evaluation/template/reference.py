"""The caller's own answers to a few examples, which travel in the template: does the bound graph
give them too?"""

from __future__ import annotations

import base64
import binascii

import torch
from onnx import ModelProto
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from rankpress.errors import EvaluationMismatch
from rankpress.schemas.template import REFERENCE_INPUT, REFERENCE_KEY, REFERENCE_OUTPUT
from worker.evaluation.architecture import Network

# Relative to the norm of the caller's answers. The caller may have computed in half precision.
TOLERANCES = {"float64": 1e-3, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}


def check_reference(
    model: ModelProto, output: str, dtypes: frozenset[str], network: Network
) -> tuple[str, ...]:
    """A sentence for the report; none when the template holds no answers.

    Raises EvaluationMismatch when the graph with the model's weights answers otherwise.
    """
    told = next((e.value for e in model.metadata_props if e.key == REFERENCE_KEY), None)
    if told is None:
        return ()
    try:
        tensors = load_safetensors(base64.b64decode(told, validate=True))
        wanted = tensors[REFERENCE_OUTPUT + output]
    except (SafetensorError, binascii.Error, ValueError, KeyError) as error:
        raise EvaluationMismatch(
            "The template's reference outputs cannot be read; export it again, or with "
            "reference=False."
        ) from error
    inputs = {
        name.removeprefix(REFERENCE_INPUT): tensor
        for name, tensor in tensors.items()
        if name.startswith(REFERENCE_INPUT)
    }
    with torch.inference_mode():
        found = network(inputs).cpu()
    if found.shape != wanted.shape:
        raise EvaluationMismatch(
            f"The template answers its reference inputs with {list(found.shape)}, the exported "
            f"model with {list(wanted.shape)}."
        )
    error_norm = float((found.double() - wanted.double()).norm())
    relative = error_norm / max(float(wanted.double().norm()), 1e-30)
    tolerance = max((TOLERANCES[dtype] for dtype in dtypes), default=1e-3)
    if not relative <= tolerance:
        raise EvaluationMismatch(
            "The template with the model's weights does not give the outputs that the exported "
            f"model gave: relative error {relative:.2g}, at most {tolerance:g} is expected. Was it "
            "exported from a model with other weights than the uploaded ones?"
        )
    return (
        f"The template answered {found.shape[0]} reference samples as the exported model did "
        f"(relative error {relative:.1e}).",
    )
