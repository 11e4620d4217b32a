"""The factors of one group of layers on their way from factorise to write: a safetensors file.

Keys are `<layer>/right` and `<layer>/left`, the stored factors, and `<layer>/s`, the singular
values as float64 [count, r]. A layer that stays dense has its singular values alone, if any. Of a
job's further results the factors are at `<layer>/right.1` and so on. A refit is a file of the same
form for each result, of new right factors and `<layer>/bias`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

RIGHT, LEFT, SPECTRUM, BIAS = "right", "left", "s", "bias"


def write_part(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    save_file(dict(tensors), path)


def factor_key(layer: str, which: str, result: int) -> str:
    """The key of a factor of one of the job's results."""
    return f"{layer}/{which}" if result == 0 or which == SPECTRUM else f"{layer}/{which}.{result}"


class Parts:
    """Every part of a job, mapped from disk; a tensor is read when it is asked for. Factors are
    those of one `result`."""

    def __init__(self, files: Iterable[Any], result: int = 0) -> None:
        self._result = result
        self._where = {key: file for file in files for key in file.keys()}  # noqa: SIM118

    def tensor(self, layer: str, which: str) -> torch.Tensor:
        """Raises KeyError for a layer that has none."""
        key = factor_key(layer, which, self._result)
        found: torch.Tensor = self._where[key].get_tensor(key)
        return found

    def shape(self, layer: str, which: str) -> tuple[int, ...]:
        key = factor_key(layer, which, self._result)
        return tuple(self._where[key].get_slice(key).get_shape())

    def has(self, layer: str, which: str) -> bool:
        return factor_key(layer, which, self._result) in self._where


@contextmanager
def open_parts(paths: Iterable[Path], result: int = 0) -> Iterator[Parts]:
    files = [safe_open(path, framework="pt") for path in paths]
    yield Parts(files, result)
