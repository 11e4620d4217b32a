"""The dense and the compressed model side by side: what a layer of each gives on the same samples.

Both are modules of the dense model's form; the compressed one holds the factors multiplied back, so
that every kind of layer has its inputs and outputs in one place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rankpress.loading.moments import Moments
from rankpress.loading.rows import input_rows, output_rows
from rankpress.loading.statistics import padding_mask
from worker.aware.roots import Root
from worker.aware.watchable import Watchable
from worker.refit.fitting import into_metric

Samples = Callable[[], Iterable[Mapping[str, torch.Tensor]]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """`samples` gives the calibration batches anew at each call, on the models' device."""

    dense: Watchable
    compressed: Watchable
    samples: Samples

    def put(self, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """A layer of the compressed model gets these values; the bias stays where it is None."""
        module = self.compressed.layers[name]
        there = module.weight
        assert isinstance(there, torch.Tensor)

        def parameter(tensor: torch.Tensor) -> nn.Parameter:
            # A new one: the dense layer's may be tied to others.
            return nn.Parameter(tensor.to(there.device, there.dtype), requires_grad=False)

        module.weight = parameter(weight)
        if bias is not None:
            module.bias = parameter(bias)

    def order(self, names: Iterable[str]) -> tuple[str, ...]:
        """The layers as the first batch comes through them; what it leaves out, last."""
        wanted = tuple(names)
        seen: dict[str, None] = {}
        handles = [
            self.compressed.layers[name].register_forward_hook(
                lambda *_, name=name: seen.setdefault(name)
            )
            for name in wanted
        ]
        try:
            with torch.no_grad():
                for batch in self.samples():
                    self.compressed.run(batch)
                    break
        finally:
            for handle in handles:
                handle.remove()
        return (*seen, *(name for name in wanted if name not in seen))

    def moments(self, name: str, rows: Root | None) -> Moments | None:
        """Of the rows [x, r] of a layer (worker.refit.fitting); None where it does not run alike
        in both models, or not at all. One pass of each model over the samples."""
        answers: deque[torch.Tensor] = deque()
        moments = Moments()
        mask: torch.Tensor | None = None
        alike = True

        def answered(module: nn.Module, given: tuple[Any, ...], output: torch.Tensor) -> None:
            # A copy: what follows may work in place.
            answers.append(output_rows(module, output, mask).to(torch.float64, copy=True))

        def compared(module: nn.Module, given: tuple[Any, ...], output: torch.Tensor) -> None:
            nonlocal alike
            found = output_rows(module, output, mask)
            if not answers or answers[0].shape != found.shape:
                alike = False
                return
            lacking = into_metric(rows, (answers.popleft() - found.double()).cpu().T).T
            start = 0
            for x in input_rows(module, given[0], mask):
                end = start + x.shape[0]
                moments.add(torch.cat([x.double().cpu(), lacking[start:end]], dim=1))
                start = end

        handles = [
            self.dense.layers[name].register_forward_hook(answered),
            self.compressed.layers[name].register_forward_hook(compared),
        ]
        try:
            with torch.no_grad():
                for batch in self.samples():
                    mask = padding_mask(batch)
                    self.dense.run(batch)
                    self.compressed.run(batch)
                    if answers or not alike:
                        return None
        finally:
            for handle in handles:
                handle.remove()
        return moments if moments.count else None
