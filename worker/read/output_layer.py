"""Which tensor is the model's output layer, when only names and shapes are known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from worker.tensors import StoredTensor


@dataclass(frozen=True, kw_only=True)
class OutputLayer:
    """The output layer's tensor. `assumed` says that it was guessed, not known from a graph."""

    name: str
    assumed: bool


def guess_output_layer(matrices: Sequence[StoredTensor]) -> OutputLayer | None:
    """The last of a chain of shapes, else the last in file order; None without any matrix.

    `matrices` are the floating 2-D tensors in the file's order. Files are often sorted by name,
    which puts layer 10 before layer 2 or the head before the body; so a chain is also looked for
    in the order that people count in, and by the shapes alone: the one matrix whose output no
    other matrix takes as its input.
    """
    if not matrices:
        return None
    natural = sorted(matrices, key=lambda t: _natural_key(t.name))
    for order in (matrices, natural):
        if _is_chain([t.shape for t in order]) or _is_chain([t.shape[::-1] for t in order]):
            return OutputLayer(name=order[-1].name, assumed=True)
    end = _end_of_path(natural)
    return OutputLayer(name=(end or matrices[-1]).name, assumed=True)


def _natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Digits compare as numbers: layer.2 before layer.10."""
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name))


def _is_chain(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether each [out, in] takes what the one before it gives."""
    return all(after[1] == before[0] for before, after in pairwise(shapes))


def _end_of_path(matrices: Sequence[StoredTensor]) -> StoredTensor | None:
    """The last matrix of the path through all shapes, when exactly one matrix can be it."""
    balance: Counter[int] = Counter()
    for tensor in matrices:
        out, into = tensor.shape
        balance[out] += 1
        balance[into] -= 1
    ends = [width for width, count in balance.items() if count == 1]
    if len(ends) != 1 or any(abs(count) > 1 for count in balance.values()):
        return None
    last = [t for t in matrices if t.shape[0] == ends[0]]
    return last[0] if len(last) == 1 and _connected(matrices) else None


def _connected(matrices: Sequence[StoredTensor]) -> bool:
    """Whether every width can be reached from every other along the matrices."""
    reached = set(matrices[0].shape)
    grown = True
    while grown:
        touching = {w for t in matrices if reached & set(t.shape) for w in t.shape}
        grown = not touching <= reached
        reached |= touching
    return all(set(t.shape) <= reached for t in matrices)
