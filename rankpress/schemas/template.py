"""What an ONNX template says of itself, in the graph's metadata.

A template is an ONNX graph without its weights: each initializer whose name is a key of the
state_dict is external data at the location `STATE_DICT`, and is bound by that name.
"""

from pydantic import Field

from rankpress.schemas.base import Frozen

STATE_DICT = "state_dict"  # the location of the placeholders
METADATA_KEY = "rankpress.template"
REFERENCE_KEY = "rankpress.reference"  # base64 of a safetensors file: in.<name>, out.<name>
REFERENCE_INPUT = "in."
REFERENCE_OUTPUT = "out."
VERSION = 1


class TemplateInfo(Frozen):
    """Stored as JSON under `METADATA_KEY`."""

    version: int = VERSION
    tied: dict[str, str] = Field(
        default_factory=dict,
        description="State_dict key -> the key that stands for it in the graph",
    )
    unused: tuple[str, ...] = Field(
        default=(), description="State_dict keys that the caller said play no part in the output"
    )
