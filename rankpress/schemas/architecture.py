"""How a model's tensors are used, as a request tells it."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from rankpress.names import Activation, ArchitectureKind
from rankpress.schemas.base import Strict

UploadId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
# Architectures that the service itself runs with their layers in reach.
REFITTED_HERE = (ArchitectureKind.MLP, ArchitectureKind.FACTORY)
# Architectures that are an upload: an ONNX model is the job's own.
_WITH_AN_UPLOAD = (ArchitectureKind.TEMPLATE, ArchitectureKind.ONNX)


class Architecture(Strict):
    """How the tensors are used; a state_dict does not say. The kind `onnx` goes with a `model` that
    is a whole ONNX model, its weights inside, and with no other."""

    kind: ArchitectureKind = ArchitectureKind.MLP
    activation: Activation = Activation.RELU
    template: UploadId | None = None
    name: str | None = Field(default=None, max_length=256)
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Self:
        if self.kind is ArchitectureKind.TEMPLATE and self.template is None:
            raise ValueError(
                "template: required by the kind template; the id of an upload made by "
                "rankpress.export_template(model, example_inputs, path)"
            )
        if self.template is not None and self.kind not in _WITH_AN_UPLOAD:
            raise ValueError("template: used by the kind template alone; leave it out")
        if self.kind is ArchitectureKind.FACTORY and not self.name:
            raise ValueError("name: required by the kind factory; the name of an installed one")
        return self
