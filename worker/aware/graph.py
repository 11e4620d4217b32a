"""Statistics of a graph's layers, by forward passes alone: there is no backward pass.

What goes into a layer is an output more that the graph is asked for. How strongly the model's
output depends on a layer is measured by forward differences: with noise s R, R ~ N(0, I), added to
what comes out of the layer, the mean of d^T H d / s^2 is the trace of J^T H J, d being the change
of the model's output. The file gets that over M, times the identity: it tells how layers compare,
which is what a budget is spent by, and nothing of the directions within one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from onnx import ModelProto, helper
from torch import nn
from torch.nn import functional

from rankpress.loading.curvature import energy
from rankpress.loading.gathering import NoStatistics, check
from rankpress.loading.statistics import padding_mask
from rankpress.loading.watching import Inputs
from rankpress.names import Sensitivity
from rankpress.schemas.statistics import SENSITIVITY, StatisticsInfo
from worker.evaluation.template import TemplateArchitecture
from worker.evaluation.template.arrays import input_arrays, weight_arrays
from worker.evaluation.template.parse import graph_inputs
from worker.evaluation.template.places import Place, places_of
from worker.evaluation.template.replace import Site
from worker.evaluation.template.session import Array, Session
from worker.evaluation.template.split import SplitGraph, names_of
from worker.evaluation.weights import Weights

PIECE = 8  # samples of a run: every layer's input is in memory at once
SENSED, LEAST_PIECES = 64, 4  # samples, about, whose runs with noise give the sensitivities
NOISE = 1e-2  # of the root mean square of what comes out of the layer

Batch = Mapping[str, torch.Tensor]


def gather_by_runs(
    architecture: TemplateArchitecture,
    weights: Weights,
    batches: Iterable[Batch],
    *,
    count: int,
    names: frozenset[str],
    sensitivity: Sensitivity | None,
    device: torch.device,
    seed: int = 0,
) -> tuple[dict[str, torch.Tensor], StatisticsInfo]:
    """The statistics of the weights `names`; without sensitivities where that is None.

    One run of each sample for the inputs of all layers; and one more for each layer's sensitivity,
    of samples spread evenly over the `count` that `batches` hold. Raises NoStatistics.
    """
    found = places_of(architecture.model, architecture.binding)
    places = {name: place for name, place in found.items() if name in names}
    graph = _Graph(architecture, places, weights, device)
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: Inputs(place.module) for name, place in places.items()}
    traces = dict.fromkeys(places, 0.0)
    samples = sensed = 0
    every = _every(count, architecture.batch_size or PIECE)
    for i, piece in enumerate(_pieces(batches, architecture.batch_size)):
        mask, taken = padding_mask(piece), graph.taken(piece)
        is_sensed = sensitivity is not None and i % every == 0
        values = graph.values(taken, outputs=is_sensed)
        samples += taken.rows
        for name, place in places.items():
            x = graph.rows(values[place.x], taken.rows)
            inputs[name].add(_as_the_module_takes_it(place, x), mask)
        if sensitivity is None or not is_sensed:
            continue
        sensed += taken.rows
        output = graph.rows(values[architecture.output.name], taken.rows).double()
        for name, place in places.items():
            y = torch.from_numpy(values[place.y])
            size = NOISE * float(y.double().square().mean().sqrt()) or NOISE
            noise = size * torch.randn(y.shape, generator=generator, dtype=y.dtype)
            change = graph.disturbed(taken, name, noise).double() - output
            traces[name] += float(energy(change, output, sensitivity)) / size**2
    tensors: dict[str, torch.Tensor] = {}
    for name, seen in inputs.items():
        if seen.count == 0:
            continue
        tensors |= seen.tensors(name)
        if sensitivity is not None:
            width = _width(places[name].module)
            tensors[f"{name}/{SENSITIVITY}"] = (
                torch.eye(width, dtype=torch.float64) * traces[name] / (width * sensed)
            )
    check(tensors)
    return tensors, StatisticsInfo(
        samples=samples,
        two_sided=sensitivity is not None,
        sensitivity=sensitivity or Sensitivity.OUTPUT,
        exact=None if sensitivity is None else False,
        vectors={name: seen.count for name, seen in inputs.items() if seen.count},
    )


def _every(count: int, size: int) -> int:
    """Each so manieth piece of `size` samples is run with noise."""
    return max(count // size // max(SENSED // size, LEAST_PIECES), 1)


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """A piece as the graph takes it, and how many samples it is of."""

    feeds: dict[str, Array]
    rows: int


class _Graph:
    """The template with its layers' inputs and outputs in reach, and noise for the latter."""

    def __init__(
        self,
        architecture: TemplateArchitecture,
        places: Mapping[str, Place],
        weights: Weights,
        device: torch.device,
    ) -> None:
        if not places:
            raise NoStatistics("the template applies no weight as a layer that can be watched")
        self._architecture = architecture
        types = _types(architecture, places)
        model, self._noise = _with_noise(architecture.model, places, types)
        given = {value.name for value in graph_inputs(model)}
        self._inputs = {place.x for place in places.values()} - given
        self._outputs = {place.y for place in places.values()}
        asked = sorted({architecture.output.name} | self._inputs | self._outputs)
        del model.graph.output[:]
        model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in asked)
        whole = SplitGraph(model=model, split=(), whole=())
        arrays = weight_arrays(whole, architecture.binding, weights)
        self._session = Session(model, arrays, device)
        self._silence: dict[str, Array] = {
            self._noise[name]: np.zeros((), helper.tensor_dtype_to_np_dtype(kind))
            for name, kind in types.items()
        }

    def taken(self, piece: Batch) -> _Taken:
        feeds = input_arrays(self._architecture.model, piece, self._architecture.batch_size)
        return _Taken(feeds=feeds, rows=next(iter(piece.values())).shape[0])

    def values(self, taken: _Taken, *, outputs: bool) -> dict[str, Array]:
        """By name, the model's output, what goes into each layer, and with `outputs` what comes
        out of it."""
        wanted = {self._architecture.output.name} | self._inputs
        asked = sorted(wanted | self._outputs if outputs else wanted)
        found = self._session.run(asked, taken.feeds | self._silence)
        return taken.feeds | dict(zip(asked, found, strict=True))

    def disturbed(self, taken: _Taken, name: str, noise: torch.Tensor) -> torch.Tensor:
        """The model's output with noise added to what comes out of a layer."""
        held = taken.feeds | self._silence | {self._noise[name]: noise.numpy()}
        (found,) = self._session.run([self._architecture.output.name], held)
        return self.rows(found, taken.rows)

    def rows(self, array: Array, rows: int) -> torch.Tensor:
        """Without what padded a batch up to the only size that the graph takes."""
        fixed = self._architecture.batch_size
        if fixed is None or fixed == rows:
            return torch.from_numpy(array)
        if array.ndim == 0 or array.shape[0] % fixed:
            raise NoStatistics("the first axis of a layer's input is not the batch")
        return torch.from_numpy(array[: rows * (array.shape[0] // fixed)])


def _types(architecture: TemplateArchitecture, places: Mapping[str, Place]) -> dict[str, int]:
    """ONNX's type of each layer's weight, and so of what comes out of it."""
    types = {tensor.name: tensor.data_type for tensor in architecture.model.graph.initializer}
    names = architecture.binding.names.items()
    return {stored: types[name] for name, stored in names if stored in places}


def _with_noise(
    model: ModelProto, places: Mapping[str, Place], types: Mapping[str, int]
) -> tuple[ModelProto, dict[str, str]]:
    """An input of any shape added to what comes out of each layer; and its name, by layer."""
    site = Site(uses={}, outputs=frozenset(), factors={}, taken=names_of(model))
    layer_of = {place.y: name for name, place in places.items()}
    noises: dict[str, str] = {}
    noisy = ModelProto()
    noisy.CopyFrom(model)
    del noisy.graph.node[:]
    for node in model.graph.node:
        name = layer_of.get(node.output[0])
        if name is None:
            noisy.graph.node.append(node)
            continue
        raw, noise = site.fresh(node.output[0] + "/raw"), site.fresh(node.output[0] + "/noise")
        first = noisy.graph.node.add()
        first.CopyFrom(node)
        first.output[0] = raw
        noisy.graph.node.append(helper.make_node("Add", [raw, noise], [node.output[0]]))
        noisy.graph.input.append(helper.make_tensor_value_info(noise, types[name], None))
        noises[name] = noise
    return noisy, noises


def _pieces(batches: Iterable[Batch], fixed: int | None) -> Iterator[Batch]:
    for batch in batches:
        rows = next(iter(batch.values())).shape[0]
        step = PIECE if fixed is None else rows
        for start in range(0, rows, step):
            yield {name: tensor[start : start + step] for name, tensor in batch.items()}


def _as_the_module_takes_it(place: Place, x: torch.Tensor) -> torch.Tensor:
    if isinstance(place.module, nn.Embedding):
        return x % place.module.num_embeddings  # a graph may count from the end
    return functional.pad(x, place.margins) if any(place.margins) else x


def _width(module: nn.Module) -> int:
    """How many numbers come out of it for each vector."""
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]
