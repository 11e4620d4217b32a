"""The data that the worker's parts hand to each other. Shapes: M rows, N columns, K rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from rankpress.names import FileFormat, Reason


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of the input as its file describes it; no value has been read for it."""

    name: str
    dtype: str  # torch's name without the prefix: "float32"
    shape: tuple[int, ...]
    nbytes: int  # logical: elements times element size
    alias_of: str | None = None  # the first name of the same bytes, for the second and later names
    passthrough: Reason | None = None  # set when the file itself says that it is no candidate


class Checkpoint(Protocol):
    """An opened input, or a written output read back: tensors by name, mapped from disk."""

    @property
    def format(self) -> FileFormat: ...
    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """In the file's order."""
        ...

    @property
    def metadata(self) -> dict[str, str]:
        """The safetensors metadata, or the equivalent of a `.pt`."""
        ...

    @property
    def weights_path(self) -> str | None:
        """Where in a nested checkpoint the weights were found; None at the top."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the report: what was found beside the weights."""
        ...

    @property
    def original(self) -> Path | None:
        """The one file that is this checkpoint in its format; None for several files, and for
        containers that are never written (zip archives)."""
        ...

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor, mapped and not copied where the file allows it. Raises KeyError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class OutputTensor:
    """A tensor of the output: what the header says of it, and where its values come from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]  # called once, when it is its turn to be written
    source: str | None = None  # the input tensor it is bit for bit, for containers that share


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """Raises AttributeError or TypeError for a name that is no dtype of this torch."""
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{name} is no dtype")
    return found
