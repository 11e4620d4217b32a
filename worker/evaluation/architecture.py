"""What every kind of architecture offers to the evaluation: inputs, outputs, and a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from worker.evaluation.weights import Weights

# Inputs by name, batch first -> the output that is scored, batch first.
Network = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """An array of the validation file that the model takes."""

    name: str
    dtype: str | None  # exact, or None: any integer or floating dtype, cast to `compute_dtype`
    shape: tuple[int | None, ...] | None  # without the batch axis; None: any, or any such size


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """The output that is scored, without the batch axis; None for a size that varies."""

    name: str
    shape: tuple[int | None, ...]


class LayerTimer(Protocol):
    """A network that notes how long each layer takes."""

    def run(self) -> None:
        """One batch."""
        ...

    def seconds(self) -> Mapping[str, float]:
        """Median seconds of a batch in each layer, by the name of its weight. Called once, after
        the last run."""
        ...


class Architecture(Protocol):
    """How the tensors of a checkpoint are used."""

    @property
    def words(self) -> str: ...
    @property
    def assumed(self) -> bool: ...
    @property
    def output_layer(self) -> str | None:
        """The key of the weight that makes the output; None where it cannot be told."""
        ...

    @property
    def inputs(self) -> tuple[InputSpec, ...]: ...
    @property
    def output(self) -> OutputSpec: ...
    @property
    def compute_dtype(self) -> torch.dtype: ...
    @property
    def batch_size(self) -> int | None:
        """The only batch size that the model takes; None when any will do."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the report."""
        ...

    def runs_on(self, device: torch.device) -> torch.device:
        """The device that a network built for `device` really uses."""
        ...

    def build(self, weights: Weights, device: torch.device) -> Network:
        """A network in evaluation mode that keeps no gradients and changes no statistics."""
        ...

    def build_factored(
        self, weights: Weights, device: torch.device
    ) -> tuple[Network | None, tuple[str, ...]]:
        """For the latency: the network with its factors as separate layers, where `build` does
        not give that already; and sentences for the report."""
        ...

    def flops(
        self, weights: Weights, network: Network, sample: Mapping[str, torch.Tensor]
    ) -> int | None:
        """Operations of one sample, a multiplication and an addition counting two; None where
        they cannot be told. `network` is what `build` made of `weights`."""
        ...

    def check_dense(self, network: Network) -> tuple[str, ...]:
        """Compares the dense network with what the caller said of it, where that was sent.
        Sentences for the report. Raises EvaluationMismatch."""
        ...

    def layer_timer(
        self,
        weights: Weights,
        names: frozenset[str],
        inputs: Mapping[str, torch.Tensor],
        device: torch.device,
    ) -> LayerTimer:
        """Of the layers with these weights, on one batch; those are left out whose time cannot be
        told from others'."""
        ...
