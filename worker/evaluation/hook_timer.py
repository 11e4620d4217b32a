"""How long each layer of a torch network takes, by hooks around its modules."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn


class HookTimer:
    """`parts` are the modules of each layer, by the name of its weight."""

    def __init__(
        self,
        call: Callable[[], object],
        parts: Mapping[str, Sequence[nn.Module]],
        device: torch.device,
    ) -> None:
        self._call = call
        self._device = device
        self._started = 0.0
        self._spent: dict[str, float] = {}
        self._runs: list[dict[str, float]] = []
        for name, modules in parts.items():
            for module in modules:
                module.register_forward_pre_hook(self._before)
                module.register_forward_hook(self._after(name))

    def run(self) -> None:
        self._spent = {}
        self._call()
        self._runs.append(self._spent)

    def seconds(self) -> dict[str, float]:
        names = self._runs[0] if self._runs else {}
        return {name: statistics.median(run[name] for run in self._runs) for name in names}

    def _before(self, module: nn.Module, inputs: object) -> None:
        self._started = self._now()

    def _after(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def note(module: nn.Module, inputs: object, output: object) -> None:
            self._spent[name] = self._spent.get(name, 0.0) + self._now() - self._started

        return note

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
