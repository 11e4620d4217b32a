"""What a layer sees and does: statistics of its input vectors, and of gradients by its outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rankpress.loading.moments import Counts, Energy, Moments
from rankpress.loading.rows import input_rows, masks, output_rows
from rankpress.schemas.statistics import COVARIANCE, FREQUENCIES, MEAN

WATCHED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)


def is_watched(module: nn.Module) -> bool:
    """Whether second moments of the layer are known how to take: no grouped convolutions, whose
    weight is no matrix of all their inputs."""
    return isinstance(module, WATCHED) and getattr(module, "groups", 1) == 1


class Inputs:
    """Statistics of what a layer is given."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._found: Moments | Counts = (
            Counts(module.num_embeddings) if isinstance(module, nn.Embedding) else Moments()
        )

    @property
    def count(self) -> int:
        """Input vectors, or indices of an embedding, so far."""
        return self._found.count

    def add(self, x: torch.Tensor, mask: torch.Tensor | None) -> None:
        """The layer's input; `mask` [B, T] leaves padding out."""
        if isinstance(self._found, Counts):
            indices = x[mask] if mask is not None and masks(mask, x, x.dim()) else x.flatten()
            padding = getattr(self._module, "padding_idx", None)
            self._found.add(indices if padding is None else indices[indices != padding])
        else:
            for rows in input_rows(self._module, x, mask):
                self._found.add(rows)

    def tensors(self, key: str) -> dict[str, torch.Tensor]:
        """As in the statistics file, for the weight `key`. Raises ValueError before the first."""
        if isinstance(self._found, Counts):
            return {f"{key}/{FREQUENCIES}": self._found.frequencies}
        return {f"{key}/{MEAN}": self._found.mean, f"{key}/{COVARIANCE}": self._found.covariance}


class Watch:
    """One layer's statistics while the model runs. `mask` [B, T] leaves padding out."""

    def __init__(self, module: nn.Module, *, two_sided: bool) -> None:
        self.module = module
        self.inputs = Inputs(module)
        self.gradients = Energy()
        self.mask: torch.Tensor | None = None
        self._two_sided = two_sided
        self._handle = module.register_forward_hook(self._saw)

    def stop(self) -> None:
        self._handle.remove()

    def _saw(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        self.inputs.add(given[0], self.mask)
        if not self._two_sided:
            return None
        if not output.requires_grad:
            # The first layer on its path: from here on gradients are wanted. The clone lets what
            # follows work in place.
            output = output.detach().requires_grad_().clone()
        output.register_hook(self._saw_gradient)
        return output

    def _saw_gradient(self, gradient: torch.Tensor) -> None:
        self.gradients.add(output_rows(self.module, gradient, self.mask))
