"""The shards of one model as one checkpoint: several files, or one uncompressed archive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from rankpress.formats.facts import ShardIndex
from rankpress.names import FileFormat
from rankpress.schemas.manifest import METADATA_KEY
from worker.checkpoint.aliases import mark_equal
from worker.checkpoint.safetensors_in import SafetensorsCheckpoint
from worker.checkpoint.torch_in import TorchCheckpoint
from worker.tensors import StoredTensor

Shard = SafetensorsCheckpoint | TorchCheckpoint


class ShardedCheckpoint:
    """Tensors in the order of the shards. Written again, it is one tar of shards and index."""

    format = FileFormat.TAR
    weights_path: str | None = None
    original: Path | None = None  # the file that holds this checkpoint and nothing else

    def __init__(self, shards: Mapping[str, Shard], index: ShardIndex, index_name: str) -> None:
        self.shards = dict(shards)
        self.index = index
        self.index_name = index_name
        self._holder = {tensor.name: shard for shard in shards.values() for tensor in shard.tensors}
        self.shard_of = {t.name: name for name, shard in shards.items() for t in shard.tensors}
        self.metadata = self._metadata()
        self.tensors = self._tensors()
        self.notes = (
            f"the model came in {len(shards)} shards",
            *(note for shard in shards.values() for note in shard.notes),
        )

    def tensor(self, name: str) -> torch.Tensor:
        return self._holder[name].tensor(name)

    def close(self) -> None:
        for shard in self.shards.values():
            shard.close()

    def _metadata(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for shard in self.shards.values():
            found = {k: v for k, v in shard.metadata.items() if k != METADATA_KEY} | found
        return found

    def _tensors(self) -> tuple[StoredTensor, ...]:
        """With ties across shards where all of them are safetensors."""
        tensors = tuple(t for shard in self.shards.values() for t in shard.tensors)
        plain = {n: s for n, s in self._holder.items() if isinstance(s, SafetensorsCheckpoint)}
        if len(plain) != len(tensors):
            return tensors
        return mark_equal(tensors, lambda name: plain[name].octets(name))
