"""The dense model with its layers in reach: which architectures have that, and by which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rankpress.loading.gathering import Runner
from rankpress.loading.names import NameMap
from rankpress.loading.watching import is_watched
from worker.evaluation.architecture import Architecture
from worker.evaluation.factory.architecture import FactoryArchitecture, call
from worker.evaluation.factory.registry import make_model
from worker.evaluation.mlp_network import MlpArchitecture, build_network
from worker.evaluation.weights import Weights
from worker.tensors import StoredTensor


@dataclass(frozen=True, kw_only=True)
class Watchable:
    """`layers` by the checkpoint's keys of their weights; `run` gives the scored output."""

    model: nn.Module
    layers: dict[str, nn.Module]
    run: Runner


def watchable(
    architecture: Architecture,
    tensors: Sequence[StoredTensor],
    weights: Weights,
    device: torch.device,
) -> Watchable:
    """Of an architecture that is in reach."""
    if isinstance(architecture, MlpArchitecture):
        network = build_network(architecture.chain, weights, device)
        linears = [module for module in network if isinstance(module, nn.Linear)]
        chain = architecture.chain.layers

        def run_chain(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
            samples = batch["inputs"]
            answer: torch.Tensor = network(samples.reshape(samples.shape[0], -1))
            return answer

        layers: dict[str, nn.Module] = {
            layer.weight: module for layer, module in zip(chain, linears, strict=True)
        }
        return Watchable(model=network, layers=layers, run=run_chain)
    assert isinstance(architecture, FactoryArchitecture)
    model, positional = architecture.load(weights, device), architecture.positional

    def run_model(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return call(model, batch, positional=positional)

    return Watchable(model=model, layers=layers_of(model, tensors), run=run_model)


def in_reach(architecture: Architecture) -> bool:
    """Whether `watchable` gives its layers; else it is a graph, which gives values alone."""
    return isinstance(architecture, MlpArchitecture | FactoryArchitecture)


def weights_known(
    architecture: Architecture, tensors: Sequence[StoredTensor]
) -> tuple[frozenset[str], frozenset[str]]:
    """Weights that will be watched, and those whose inputs have a mean; without memory for their
    values."""
    if isinstance(architecture, MlpArchitecture):
        weights = frozenset(layer.weight for layer in architecture.chain.layers)
        return weights, weights
    if isinstance(architecture, FactoryArchitecture):
        with torch.device("meta"):
            model = make_model(architecture.name, architecture.arguments)
        layers = layers_of(model, tensors)
    else:
        from worker.evaluation.template import TemplateArchitecture
        from worker.evaluation.template.places import places_of

        assert isinstance(architecture, TemplateArchitecture)
        places = places_of(architecture.model, architecture.binding)
        layers = {key: place.module for key, place in places.items()}
    indexed = {key for key, module in layers.items() if isinstance(module, nn.Embedding)}
    return frozenset(layers), frozenset(layers) - indexed


def layers_of(model: nn.Module, tensors: Sequence[StoredTensor]) -> dict[str, nn.Module]:
    """The layers that can be watched, by the checkpoint's keys of their weights. One whose weight
    serves several layers is left out: what it sees is not what any of them sees."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = NameMap(parameters)
    modules: dict[str, nn.Module] = {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if is_watched(module)
    }
    users: dict[int, set[int]] = {}
    for name, parameter in parameters.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        users.setdefault(id(parameter), set()).add(id(owner))
    found: dict[str, nn.Module] = {}
    for tensor in tensors:
        key = names.find(tensor.name)
        if tensor.alias_of is not None or key is None or key not in modules:
            continue
        if len(users[id(parameters[key])]) == 1:
            found[tensor.name] = modules[key]
    return found
