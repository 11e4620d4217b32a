"""What the cheap checks find out about a file."""

from __future__ import annotations

from dataclasses import dataclass, field

from rankpress.names import FileFormat
from rankpress.schemas.upload import TensorInfo


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The JSON beside the shards of one model: which file holds which tensor."""

    weight_map: dict[str, str]
    metadata: dict[str, object] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """The shards, once each, in the order in which the map first names them."""
        return tuple(dict.fromkeys(self.weight_map.values()))


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """`tensors` is None where several candidates wait for a `weights_path`, or none is there."""

    format: FileFormat
    tensors: tuple[TensorInfo, ...] | None
    metadata: dict[str, str] = field(default_factory=dict)
    weights_path: str | None = None  # where a nested checkpoint's weights were found
    candidates: tuple[str, ...] = ()  # every path that `weights_path` may name
    notes: tuple[str, ...] = ()  # what was found beside the weights
    index: ShardIndex | None = None  # of a JSON index, or of an archive of shards
    members: tuple[str, ...] = ()  # the files in an archive of shards
