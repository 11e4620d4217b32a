"""What the readers of both kinds of validation file offer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

NUMBER_DTYPES = frozenset(
    (
        *("float16", "bfloat16", "float32", "float64"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)


@dataclass(frozen=True, kw_only=True)
class ArrayInfo:
    """What the file's header says of an array."""

    name: str
    dtype: str  # torch's name: "float32"; a dtype that torch lacks keeps the file's own name
    shape: tuple[int, ...]


class ArrayFile(Protocol):
    """An opened validation file."""

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]: ...

    def batches(self, names: Sequence[str], batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        """The arrays, `batch_size` rows at a time, in their stored dtypes."""
        ...
