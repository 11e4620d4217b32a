"""What a graph came as: a template, or a whole model."""

from __future__ import annotations

from dataclasses import dataclass

from rankpress.errors import EvaluationMismatch, RankpressError, UnsupportedFormat

OPSETS = range(17, 25)  # those the tests export and run
_MODEL_OPSETS = range(13, 25)  # whole models also come from older exporters


@dataclass(frozen=True, kw_only=True)
class Source:
    """How the graph is called in an error, what is said of making one, and which error a graph is
    that is not run."""

    noun: str
    hint: str
    refused: type[RankpressError]
    opsets: range


TEMPLATE = Source(
    noun="template",
    hint="A template is made by rankpress.export_template(model, example_inputs, path).",
    refused=EvaluationMismatch,
    opsets=OPSETS,
)
MODEL = Source(
    noun="model",
    hint="An ONNX model is taken as torch.onnx.export(model.eval(), ...) writes it.",
    refused=UnsupportedFormat,
    opsets=_MODEL_OPSETS,
)
