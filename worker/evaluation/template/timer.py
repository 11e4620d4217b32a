"""How long each layer of a graph takes, by ONNX Runtime's own profile.

Optimisations are off, so that every node is one of the graph and its time belongs to its layer.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from onnx import ModelProto

from worker.evaluation.template.session import Array, Session

_SHAPING = frozenset(("Transpose", "Identity", "Cast", "CastLike", "Reshape", "Shape"))
_KERNEL = "_kernel_time"


class ProfileTimer:
    """`layers` names the layer of each of the graph's weights or factors."""

    def __init__(
        self,
        model: ModelProto,
        weights: Mapping[str, Array],
        layers: Mapping[str, str],
        feeds: Mapping[str, Array],
        output: str,
        device: torch.device,
    ) -> None:
        named = ModelProto()
        named.CopyFrom(model)
        for index, node in enumerate(named.graph.node):
            node.name = f"n{index}"
        self._nodes = _layer_of_node(named, layers)
        self._feeds, self._output = dict(feeds), output
        self._folder = tempfile.TemporaryDirectory(prefix="rankpress-profile-")
        self._session = Session(named, weights, device, profile=Path(self._folder.name) / "p")

    def run(self) -> None:
        self._session.run([self._output], self._feeds)

    def seconds(self) -> dict[str, float]:
        with self._folder:
            events = json.loads(self._session.end_profile().read_bytes())
        taken: dict[str, list[float]] = {}
        for event in events:
            name = str(event.get("name", ""))
            if event.get("cat") == "Node" and name.endswith(_KERNEL):
                taken.setdefault(name.removesuffix(_KERNEL), []).append(float(event["dur"]) / 1e6)
        found: dict[str, float] = {}
        for node, layer in self._nodes.items():
            if node in taken:
                found[layer] = found.get(layer, 0.0) + statistics.median(taken[node])
        return found


def _layer_of_node(model: ModelProto, layers: Mapping[str, str]) -> dict[str, str]:
    """The nodes that compute with a layer's weight, and those of no or of two layers left out."""
    holder = dict(layers)
    found: dict[str, str] = {}
    for node in model.graph.node:
        used = {holder[name] for name in node.input if name in holder}
        if len(used) != 1:
            continue
        (layer,) = used
        if node.op_type in _SHAPING:
            holder[node.output[0]] = layer
        else:
            found[node.name] = layer
    return found
