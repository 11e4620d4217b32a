"""The order of a chain of linear layers, from its shapes and names alone.

Each layer is an edge from its input width to its output width; an order that uses every layer
once, each one taking what the one before gives, is an Eulerian trail. Layers whose names differ
only in their numbers ("net.2", "net.10") follow their numbers: a safetensors file is sorted by
name, so the file's own order says little.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_DIGITS = re.compile(r"\d+")
_MAX_DEAD_ENDS = 100_000  # bounds the search on names and shapes made to be hard
MAX_LAYERS = 400  # the search recurses once a layer


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """One stored linear layer: weight [out_features, in_features], bias [out_features]."""

    weight: str  # keys in the original state_dict
    bias: str | None
    in_features: int
    out_features: int


class NoChain(Exception):
    """No order of the layers fits."""


class SeveralChains(Exception):
    """More than one order fits, and the names do not tell which."""

    def __init__(self, first: Sequence[LinearLayer], second: Sequence[LinearLayer]) -> None:
        super().__init__()
        self.first = tuple(first)
        self.second = tuple(second)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key under which "net.2" comes before "net.10"."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)


def order_chain(layers: Sequence[LinearLayer], input_width: int) -> tuple[LinearLayer, ...]:
    """The layers in the order in which `input_width` values pass through them.

    Raises NoChain, and SeveralChains when the order cannot be told.
    """
    ordered = sorted(layers, key=lambda layer: natural_key(layer.weight))
    numbered: dict[str, list[LinearLayer]] = {}
    for layer in ordered:
        numbered.setdefault(_DIGITS.sub("#", layer.weight), []).append(layer)
    found = _trails(tuple(tuple(g) for g in numbered.values()), input_width)
    if not found:  # numbers that count down, as in a decoder: let the shapes alone decide
        found = _trails(tuple((layer,) for layer in ordered), input_width)
    if not found:
        raise NoChain
    if len(found) > 1:
        raise SeveralChains(found[0], found[1])
    return found[0]


def _trails(
    queues: tuple[tuple[LinearLayer, ...], ...], input_width: int
) -> list[tuple[LinearLayer, ...]]:
    """Up to two trails over all layers, each queue taken from its front only."""
    total = sum(len(q) for q in queues)
    found: list[tuple[LinearLayer, ...]] = []
    # Which layers were taken tells at which width the trail stands, so it names the whole state.
    dead: set[tuple[int, ...]] = set()
    taken = [0] * len(queues)
    path: list[LinearLayer] = []

    def extend(width: int) -> None:
        if len(path) == total:
            found.append(tuple(path))
            return
        before = len(found)
        for i, queue in enumerate(queues):
            if taken[i] == len(queue) or queue[taken[i]].in_features != width:
                continue
            layer = queue[taken[i]]
            taken[i] += 1
            if tuple(taken) not in dead and len(dead) < _MAX_DEAD_ENDS:
                path.append(layer)
                extend(layer.out_features)
                path.pop()
            taken[i] -= 1
            if len(found) == 2:
                return
        if len(found) == before:
            dead.add(tuple(taken))

    extend(input_width)
    return found
