"""A chain of linear layers as an `Architecture`, dense or with its factors as written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from rankpress.names import Activation
from worker.evaluation.architecture import InputSpec, LayerTimer, Network, OutputSpec
from worker.evaluation.hook_timer import HookTimer
from worker.evaluation.mlp import Chain
from worker.evaluation.weights import Weights

_MODULES: dict[Activation, type[nn.Module]] = {
    Activation.RELU: nn.ReLU,
    Activation.GELU: nn.GELU,
    Activation.SILU: nn.SiLU,
    Activation.TANH: nn.Tanh,
    Activation.SIGMOID: nn.Sigmoid,
    Activation.LEAKY_RELU: nn.LeakyReLU,
    Activation.IDENTITY: nn.Identity,
}


@dataclass(frozen=True, kw_only=True)
class MlpArchitecture:
    """A chain as an `Architecture`."""

    chain: Chain

    assumed = True
    batch_size = None

    @property
    def words(self) -> str:
        return self.chain.words

    @property
    def output_layer(self) -> str:
        return self.chain.output_layer

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        return (InputSpec(name="inputs", dtype=None, shape=None),)

    @property
    def output(self) -> OutputSpec:
        return OutputSpec(name="output", shape=(self.chain.layers[-1].out_features,))

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.chain.compute_dtype

    @property
    def notes(self) -> tuple[str, ...]:
        if set(self.chain.stored_dtypes) == {self.chain.dtype}:
            return ()
        stored = ", ".join(self.chain.stored_dtypes)
        return (f"The weights are {stored}; both models were evaluated in {self.chain.dtype}.",)

    def runs_on(self, device: torch.device) -> torch.device:
        return device

    def build_factored(
        self, weights: Weights, device: torch.device
    ) -> tuple[Network | None, tuple[str, ...]]:
        """`build` keeps the factors apart."""
        return None, ()

    def flops(
        self, weights: Weights, network: Network, sample: Mapping[str, torch.Tensor]
    ) -> int | None:
        """By the shapes of the layers; torch's counter would load its compiler for the same."""
        total = 0
        for layer in self.chain.layers:
            factored = weights.layer(layer.weight)
            m, n = layer.out_features, layer.in_features
            total += 2 * (m * n if factored is None else factored.rank * (m + n))
        return total

    def check_dense(self, network: Network) -> tuple[str, ...]:
        """Shapes are all that is known of it."""
        return ()

    def layer_timer(
        self,
        weights: Weights,
        names: frozenset[str],
        inputs: Mapping[str, torch.Tensor],
        device: torch.device,
    ) -> LayerTimer:
        network = build_network(self.chain, weights, device)
        parts = _parts(self.chain, weights, network)
        samples = inputs["inputs"]
        return HookTimer(
            lambda: network(samples.reshape(samples.shape[0], -1)),
            {name: parts[name] for name in names if name in parts},
            device,
        )

    def build(self, weights: Weights, device: torch.device) -> Network:
        network = build_network(self.chain, weights, device)

        def run(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
            samples = inputs["inputs"]
            return cast(torch.Tensor, network(samples.reshape(samples.shape[0], -1)))

        return run


def _parts(chain: Chain, weights: Weights, network: nn.Sequential) -> dict[str, list[nn.Module]]:
    """The linear modules of each layer: one, or two where it is factorised."""
    linear = (module for module in network if isinstance(module, nn.Linear))
    return {
        layer.weight: [next(linear) for _ in range(1 if weights.layer(layer.weight) is None else 2)]
        for layer in chain.layers
    }


def build_network(chain: Chain, weights: Weights, device: torch.device) -> nn.Sequential:
    """The chain as modules: a factorised layer is two linear layers, its factors as written."""
    modules: list[nn.Module] = []
    for index, linear in enumerate(chain.layers):
        if index:
            modules.append(_MODULES[chain.activation]())
        layer = weights.layer(linear.weight)
        if layer is not None:
            bias = weights.bias(layer, linear.bias)
        else:
            bias = weights.stored(linear.bias) if linear.bias else None
        if layer is None:
            modules.append(_linear(chain, weights.stored(linear.weight), bias, device))
        else:
            left_MK, right_KN = weights.factors(layer)
            modules.append(_linear(chain, right_KN, None, device))
            modules.append(_linear(chain, left_MK, bias, device))
    return nn.Sequential(*modules).eval()


def _linear(
    chain: Chain, weight_MN: torch.Tensor, bias_M: torch.Tensor | None, device: torch.device
) -> nn.Linear:
    rows, columns = weight_MN.shape
    linear = nn.Linear(columns, rows, bias=bias_M is not None, device="meta")

    def parameter(tensor: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.to(device, chain.compute_dtype), requires_grad=False)

    linear.weight = parameter(weight_MN)
    if bias_M is not None:
        linear.bias = parameter(bias_M)
    return linear
