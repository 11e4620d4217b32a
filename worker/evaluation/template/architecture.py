"""A template as an `Architecture`: what it takes, what it gives, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from onnx import ModelProto

from rankpress.errors import EvaluationMismatch
from worker.evaluation.architecture import InputSpec, LayerTimer, Network, OutputSpec
from worker.evaluation.template.arrays import factorised, input_arrays, weight_arrays
from worker.evaluation.template.biases import with_new_biases
from worker.evaluation.template.binding import Binding, bind
from worker.evaluation.template.flops import count_by_shapes
from worker.evaluation.template.head import output_weight
from worker.evaluation.template.interface import fixed_batch, input_spec, scored_output
from worker.evaluation.template.parse import graph_inputs, read_template
from worker.evaluation.template.reference import check_reference
from worker.evaluation.template.session import Session, providers
from worker.evaluation.template.split import LEFT, RIGHT, SplitGraph, split_graph
from worker.evaluation.template.timer import ProfileTimer
from worker.evaluation.template.widen import widened
from worker.evaluation.weights import Weights
from worker.tensors import StoredTensor

HALVES = frozenset(("float16", "bfloat16"))


@dataclass(frozen=True, kw_only=True)
class TemplateArchitecture:
    """A graph that was checked and whose placeholders were found in the checkpoint."""

    model: ModelProto  # in float32 where the upload was in half precision
    binding: Binding
    inputs: tuple[InputSpec, ...]
    output: OutputSpec
    output_layer: str | None
    batch_size: int | None
    notes: tuple[str, ...]
    noun: str = "template"

    assumed = False
    compute_dtype = torch.float32

    @property
    def words(self) -> str:
        return (
            f"template, opset {self.model.opset_import[0].version}, "
            f"{len(self.model.graph.node)} nodes, output {self.output.name}"
        )

    def runs_on(self, device: torch.device) -> torch.device:
        """CUDA only when this build of ONNX Runtime has it."""
        return device if len(providers(device)) > 1 else torch.device("cpu")

    def flops(
        self, weights: Weights, network: Network, sample: Mapping[str, torch.Tensor]
    ) -> int | None:
        """Of the graph as it is timed, its factorised layers split."""
        graph = self._split(weights)
        arrays = weight_arrays(graph, self.binding, weights)
        feeds = input_arrays(self.model, sample, self.batch_size)
        total = count_by_shapes(graph.model, arrays, feeds)
        return None if total is None else total // (self.batch_size or 1)

    def check_dense(self, network: Network) -> tuple[str, ...]:
        return check_reference(self.model, self.output.name, self.binding.dtypes, network)

    def build(self, weights: Weights, device: torch.device) -> Network:
        """Every placeholder bound; of a factorised tensor, left @ right under its own name."""
        whole = SplitGraph(model=self._biased(weights), split=(), whole=())
        arrays = weight_arrays(whole, self.binding, weights)
        return self._network(Session(whole.model, arrays, device), device)

    def build_factored(
        self, weights: Weights, device: torch.device
    ) -> tuple[Network | None, tuple[str, ...]]:
        """The graph with two smaller nodes for each factorised one, as far as that goes; None
        when no layer can be split. And sentences on those that stay whole."""
        layers = factorised(self.binding, weights)
        if not layers:
            return None, ()
        graph = self._split(weights)
        notes: tuple[str, ...] = ()
        if graph.whole:
            notes = (
                "Multiplied back for the latency, because the graph uses them in a way that has "
                f"no factored form: {', '.join(self.binding.names[n] for n in graph.whole)}.",
            )
        if not graph.split:
            return None, notes
        arrays = weight_arrays(graph, self.binding, weights)
        return self._network(Session(graph.model, arrays, device), device), notes

    def layer_timer(
        self,
        weights: Weights,
        names: frozenset[str],
        inputs: Mapping[str, torch.Tensor],
        device: torch.device,
    ) -> LayerTimer:
        graph = self._split(weights)
        layers = {}
        for placeholder, stored in self.binding.names.items():
            if stored in names:
                split = placeholder in graph.split
                held = (placeholder + LEFT, placeholder + RIGHT) if split else (placeholder,)
                layers.update(dict.fromkeys(held, stored))
        return ProfileTimer(
            graph.model,
            weight_arrays(graph, self.binding, weights),
            layers,
            input_arrays(self.model, inputs, self.batch_size),
            self.output.name,
            device,
        )

    def _biased(self, weights: Weights) -> ModelProto:
        return with_new_biases(self.model, self.binding, factorised(self.binding, weights))

    def _split(self, weights: Weights) -> SplitGraph:
        return split_graph(self._biased(weights), factorised(self.binding, weights))

    def _network(self, session: Session, device: torch.device) -> Network:
        fixed = self.batch_size

        def run(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
            rows = next(iter(inputs.values())).shape[0]
            feeds = input_arrays(self.model, inputs, fixed)
            (found,) = session.run([self.output.name], feeds)
            if found.ndim == 0 or found.shape[0] != (fixed or rows):
                raise EvaluationMismatch(
                    f"The {self.noun}'s output {self.output.name!r} has shape "
                    f"{list(found.shape)} for {fixed or rows} samples; its first axis must be the "
                    "batch."
                )
            return torch.from_numpy(found[:rows].copy()).to(device)

        return run


def load_architecture(path: Path, tensors: Sequence[StoredTensor]) -> TemplateArchitecture:
    """Raises UnsupportedFormat, CorruptFile and EvaluationMismatch."""
    model = read_template(path)
    return fitted(TemplateArchitecture, model, bind(model, tensors), "template")


_Kind = TypeVar("_Kind", bound=TemplateArchitecture)


def fitted(kind: type[_Kind], model: ModelProto, binding: Binding, noun: str) -> _Kind:
    """Raises EvaluationMismatch for a graph without inputs or an output to score."""
    values = graph_inputs(model)
    if not values:
        raise EvaluationMismatch(f"The {noun} takes no input.")
    inputs = tuple(input_spec(value, noun) for value in values)
    output = scored_output(model, noun)
    batch_size = fixed_batch(values, noun)
    notes = []
    if others := [v.name for v in model.graph.output if v.name != output.name]:
        notes.append(f"Of the {noun}'s outputs {output.name!r} was scored, not {others}.")
    halves = binding.dtypes & HALVES
    if halves:
        notes.append(
            f"The weights are {', '.join(sorted(halves))}; both models were evaluated in float32."
        )
    if batch_size is not None:
        notes.append(f"The {noun} takes batches of exactly {batch_size}; the last was padded.")
    found = output_weight(model, output.name, frozenset(binding.names))
    return kind(
        model=widened(model) if halves else model,
        binding=binding,
        inputs=inputs,
        output=output,
        output_layer=None if found is None else binding.names[found],
        batch_size=batch_size,
        notes=tuple(notes),
        noun=noun,
    )
