"""The parts of a job as they are after the refit: its right factors, and its biases."""

from __future__ import annotations

import torch

from worker.write.parts import BIAS, RIGHT, Parts


class RefittedParts(Parts):
    """`parts` at one result, with what the file of that result's refit holds in place of theirs."""

    def __init__(self, parts: Parts, refit: Parts) -> None:
        self._parts = parts
        self._refit = refit

    def tensor(self, layer: str, which: str) -> torch.Tensor:
        return self._of(layer, which).tensor(layer, which)

    def shape(self, layer: str, which: str) -> tuple[int, ...]:
        return self._of(layer, which).shape(layer, which)

    def has(self, layer: str, which: str) -> bool:
        return self._of(layer, which).has(layer, which)

    def _of(self, layer: str, which: str) -> Parts:
        new = which in (RIGHT, BIAS) and self._refit.has(layer, which)
        return self._refit if new else self._parts
