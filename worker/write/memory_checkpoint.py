"""An output that is tried before it is written: its tensors by name, loaded when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rankpress.names import FileFormat
from worker.tensors import OutputTensor, StoredTensor, dtype_of


class MemoryCheckpoint:
    """A `Checkpoint` of planned output tensors."""

    format = FileFormat.SAFETENSORS
    weights_path: str | None = None
    notes: tuple[str, ...] = ()
    original: Path | None = None

    def __init__(self, outputs: Sequence[OutputTensor]) -> None:
        self._outputs = {output.name: output for output in outputs}
        self.metadata: dict[str, str] = {}
        self.tensors = tuple(
            StoredTensor(
                name=o.name,
                dtype=o.dtype,
                shape=o.shape,
                nbytes=torch.Size(o.shape).numel() * dtype_of(o.dtype).itemsize,
            )
            for o in outputs
        )

    def tensor(self, name: str) -> torch.Tensor:
        return self._outputs[name].load()

    def close(self) -> None:
        """Nothing is open."""
