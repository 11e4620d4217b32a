"""A whole ONNX model as an `Architecture`: the graph of the file itself, dense or compressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from onnx import ModelProto

from worker.checkpoint.onnx_in import OnnxCheckpoint
from worker.evaluation.architecture import LayerTimer, Network
from worker.evaluation.template.architecture import HALVES, TemplateArchitecture, fitted
from worker.evaluation.template.arrays import as_array, input_arrays, weight_arrays
from worker.evaluation.template.binding import Binding
from worker.evaluation.template.flops import count_by_shapes
from worker.evaluation.template.parse import is_placeholder
from worker.evaluation.template.session import Array, Session
from worker.evaluation.template.split import SplitGraph
from worker.evaluation.template.timer import ProfileTimer
from worker.evaluation.template.widen import widened
from worker.evaluation.weights import Weights
from worker.tensors import Checkpoint

_FLOATING = HALVES | {"float32", "float64"}


@dataclass(frozen=True, kw_only=True)
class WholeArchitecture(TemplateArchitecture):
    """What is run is the graph of each file as it was read, the compressed one with its factors as
    separate nodes; while ranks are searched for, left @ right in the graph of the input."""

    noun: str = "model"

    @property
    def words(self) -> str:
        return super().words.replace("template", "onnx", 1)

    def flops(
        self, weights: Weights, network: Network, sample: Mapping[str, torch.Tensor]
    ) -> int | None:
        graph, arrays = self._of(weights)
        total = count_by_shapes(graph, arrays, input_arrays(self.model, sample, self.batch_size))
        return None if total is None else total // (self.batch_size or 1)

    def build(self, weights: Weights, device: torch.device) -> Network:
        graph, arrays = self._of(weights)
        return self._network(Session(graph, arrays, device, noun=self.noun), device)

    def build_factored(
        self, weights: Weights, device: torch.device
    ) -> tuple[Network | None, tuple[str, ...]]:
        """`build` gives the factors as they are in the file."""
        return None, ()

    def layer_timer(
        self,
        weights: Weights,
        names: frozenset[str],
        inputs: Mapping[str, torch.Tensor],
        device: torch.device,
    ) -> LayerTimer:
        """Of a layer that the graph multiplies back, the time says nothing: the runtime does that
        once, unless it is told to leave every node as it is."""
        graph, arrays = self._of(weights)
        made = {name for node in graph.graph.node for name in node.output}
        layers = {}
        for name in names - made:
            layer = weights.layer(name)
            held = (name,) if layer is None else (layer.left, layer.right)
            layers.update(dict.fromkeys(held, name))
        feeds = input_arrays(self.model, inputs, self.batch_size)
        return ProfileTimer(graph, arrays, layers, feeds, self.output.name, device)

    def _of(self, weights: Weights) -> tuple[ModelProto, dict[str, Array]]:
        """The graph, and an array for each of its placeholders."""
        checkpoint = weights.checkpoint
        if not isinstance(checkpoint, OnnxCheckpoint):  # planned, and not written yet
            whole = SplitGraph(model=self.model, split=(), whole=())
            return self.model, weight_arrays(whole, self.binding, weights)
        graph = widened(checkpoint.graph) if self.binding.dtypes & HALVES else checkpoint.graph
        return graph, {
            tensor.name: as_array(checkpoint.tensor(tensor.name), tensor.data_type)
            for tensor in graph.graph.initializer
            if is_placeholder(tensor)
        }


def load_architecture(model: Checkpoint) -> WholeArchitecture:
    """Raises EvaluationMismatch."""
    assert isinstance(model, OnnxCheckpoint)
    held = [t.name for t in model.graph.graph.initializer if is_placeholder(t)]
    dtypes = frozenset(t.dtype for t in model.tensors) & _FLOATING
    names = {name: name for name in held}
    return fitted(
        WholeArchitecture, model.graph, Binding(names=names, dtypes=dtypes), WholeArchitecture.noun
    )
