"""The manifest in the compressed file's metadata, so that the file explains itself.

Stored as JSON under the safetensors metadata key `rankpress` (a `.pt` holds it under the key
`rankpress` beside the tensors' mapping: see docs/file-format.md).
"""

from pydantic import Field

from rankpress.names import Kind, OutputLayout, Rule
from rankpress.schemas.base import Frozen

METADATA_KEY = "rankpress"
VERSION = 1


class ManifestLayer(Frozen):
    """How to put one layer back: left @ right, reshaped to `shape`."""

    name: str  # the key in the original state_dict
    shape: tuple[int, ...]
    dtype: str
    kind: Kind
    rank: int
    ranks: tuple[int, ...] | None = None  # per expert
    rule: Rule
    threshold: float | None
    right: str  # key of the right factor, applied first
    left: str  # key of the left factor
    bias: tuple[str, str] | None = None  # (original key, key in the file)
    # Fitted to what the compressed layers before it give: no longer near the weight, by design.
    refitted: bool = Field(default=False, exclude_if=lambda refitted: not refitted)


class Manifest(Frozen):
    version: int = VERSION
    layout: OutputLayout = OutputLayout.FACTORS
    layers: tuple[ManifestLayer, ...]
    aliases: dict[str, str] = Field(
        default_factory=dict
    )  # name left out of the file -> name that holds it
