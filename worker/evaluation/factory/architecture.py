"""A module made by a factory as an `Architecture`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankpress.errors import EvaluationMismatch
from rankpress.loading.apply import apply_plan
from rankpress.loading.container import Compressed
from rankpress.loading.errors import LoadError
from rankpress.loading.names import NameMap
from rankpress.loading.plan import make_plan
from rankpress.schemas.manifest import Manifest
from worker.evaluation.architecture import InputSpec, LayerTimer, Network, OutputSpec
from worker.evaluation.arrayfile import ArrayInfo
from worker.evaluation.arrays import open_arrays
from worker.evaluation.data import PAIR, arrays_of
from worker.evaluation.factory.probe import Probe, probe
from worker.evaluation.factory.registry import make_model
from worker.evaluation.flops import count_by_running
from worker.evaluation.hook_timer import HookTimer
from worker.evaluation.targets import TARGETS
from worker.evaluation.weights import Weights
from worker.tensors import StoredTensor

# Integers that are indices; other integer arrays, such as uint8 images, become floating.
_INDICES = frozenset(("int64", "int32", "bool"))
_HALVES = frozenset(("float16", "bfloat16"))
_ONLY_INPUT = "inputs"


@dataclass(frozen=True, kw_only=True)
class FactoryArchitecture:
    """What was found out with the model on the meta device, without memory for its weights."""

    name: str
    arguments: Mapping[str, Any]
    inputs: tuple[InputSpec, ...]
    positional: bool  # the one array is called `inputs` and goes to forward's first parameter
    output: OutputSpec
    output_layer: str | None
    compute_dtype: torch.dtype
    notes: tuple[str, ...]

    assumed = False
    batch_size = None

    @property
    def words(self) -> str:
        model = self.arguments.get("model")
        return f"factory {self.name}" + (f", {model}" if isinstance(model, str) else "")

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
        return count_by_running(network, sample)

    def check_dense(self, network: Network) -> tuple[str, ...]:
        """Nothing came with it to compare with."""
        return ()

    def layer_timer(
        self,
        weights: Weights,
        names: frozenset[str],
        inputs: Mapping[str, torch.Tensor],
        device: torch.device,
    ) -> LayerTimer:
        """Of the modules that hold one of the weights and no other."""
        model = self.load(weights, device)
        owners: dict[str, list[str]] = {}
        for name in names:
            owners.setdefault(name.rpartition(".")[0], []).append(name)
        modules = dict(model.named_modules())
        parts = {
            held[0]: [modules[owner]]
            for owner, held in owners.items()
            if owner in modules and len(held) == 1
        }
        return HookTimer(lambda: call(model, inputs, positional=self.positional), parts, device)

    def build(self, weights: Weights, device: torch.device) -> Network:
        """The model with the checkpoint loaded as a caller loads it: factors as two layers."""
        model = self.load(weights, device)

        def run(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return call(model, inputs, positional=self.positional)

        return run

    def load(self, weights: Weights, device: torch.device) -> nn.Module:
        """The module behind `build`. Raises EvaluationMismatch."""
        model = make_model(self.name, self.arguments).to(self.compute_dtype).eval()
        checkpoint = weights.checkpoint
        file = Compressed(
            manifest=weights.manifest or Manifest(layers=()),
            shapes={tensor.name: tensor.shape for tensor in checkpoint.tensors},
            load=checkpoint.tensor,
        )
        try:
            apply_plan(model, file, make_plan(model, file, strict=True))
        except LoadError as error:
            raise EvaluationMismatch(
                f"The weights do not load into the model of the factory {self.name!r}: "
                f"{error.detail}."
            ) from error
        return model.to(device).requires_grad_(requires_grad=False)


def load_architecture(
    name: str | None,
    arguments: Mapping[str, Any],
    tensors: Sequence[StoredTensor],
    validation: Path,
) -> FactoryArchitecture:
    """Raises EvaluationMismatch for a factory, arguments, weights or arrays that do not fit."""
    with torch.device("meta"):
        model = make_model(name, arguments).eval()
    assert name is not None
    arrays = arrays_of(validation)
    _check_weights(name, model, tensors)
    floating = {t.dtype for t in tensors if t.dtype.startswith(("float", "bfloat"))}
    dtype = torch.float64 if floating == {"float64"} else torch.float32
    inputs, positional = _inputs(model, arrays)
    found = probe(
        model.to(dtype),
        lambda: make_model(name, arguments).to(dtype).eval(),
        _first_sample(validation, inputs, dtype),
        lambda module, given: call(module, given, positional=positional),
    )
    notes: tuple[str, ...] = ()
    if halves := sorted(floating & _HALVES):
        notes = (f"The weights are {', '.join(halves)}; both models were evaluated in float32.",)
    return FactoryArchitecture(
        name=name,
        arguments=dict(arguments),
        inputs=inputs,
        positional=positional,
        output=OutputSpec(name="output", shape=found.output_shape),
        output_layer=_stored_name(found, tensors),
        compute_dtype=dtype,
        notes=notes,
    )


def call(model: nn.Module, inputs: Mapping[str, torch.Tensor], *, positional: bool) -> torch.Tensor:
    """The output that is scored: `logits` of a structured answer, else its first tensor."""
    answer = model(*inputs.values()) if positional else model(**inputs)
    if isinstance(answer, torch.Tensor):
        return answer
    logits = getattr(answer, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    leaves, _ = torch.utils._pytree.tree_flatten(
        tuple(answer.values()) if isinstance(answer, Mapping) else answer
    )
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return leaf
    raise EvaluationMismatch("The model of the factory gives no floating tensor.")


def _inputs(
    model: nn.Module, arrays: Mapping[str, ArrayInfo]
) -> tuple[tuple[InputSpec, ...], bool]:
    names = [n for n in arrays if n != TARGETS and not n.endswith(PAIR)]
    parameters = inspect.signature(model.forward).parameters
    positional = names == [_ONLY_INPUT] and _ONLY_INPUT not in parameters
    if not positional and (unknown := [n for n in names if n not in parameters]):
        raise EvaluationMismatch(
            f"The validation file has the array {unknown[0][:80]!r}, but the model's forward takes "
            f"{', '.join(parameters)}; a single input may be called {_ONLY_INPUT!r}."
        )
    needed = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    missing = needed[1:] if positional else [n for n in needed if n not in names]
    if missing or not names:
        raise EvaluationMismatch(
            f"The validation file has no array {', '.join(missing) or _ONLY_INPUT!r}, which the "
            "model's forward takes."
        )
    return tuple(
        InputSpec(
            name=n,
            dtype=arrays[n].dtype if arrays[n].dtype in _INDICES else None,
            shape=None,
        )
        for n in names
    ), positional


def _first_sample(
    validation: Path, inputs: tuple[InputSpec, ...], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    with open_arrays(validation) as file:
        rows = next(file.batches([spec.name for spec in inputs], 1), None)
    if rows is None:
        raise EvaluationMismatch("The validation file holds no samples: its arrays have length 0.")
    return {s.name: rows[s.name] if s.dtype else rows[s.name].to(dtype) for s in inputs}


def _check_weights(name: str, model: nn.Module, tensors: Sequence[StoredTensor]) -> None:
    """Names and shapes, from the headers alone. Tied names may be left out of the file."""
    state = model.state_dict(keep_vars=True)
    find = NameMap(state)
    held: set[int] = set()
    unexpected, wrong = [], []
    for tensor in tensors:
        found = find.find(tensor.name)
        if found is None:
            unexpected.append(tensor.name)
            continue
        held.add(id(state[found]))
        if tuple(state[found].shape) != tensor.shape:
            wrong.append(
                f"{tensor.name!r} is {list(tensor.shape)} in the file and "
                f"{list(state[found].shape)} in the model"
            )
    missing = [key for key, value in state.items() if id(value) not in held]
    parts = [
        *(f"the file lacks {key!r}" for key in missing[:3]),
        *(f"the model lacks {key!r}" for key in unexpected[:3]),
        *wrong[:3],
    ]
    if parts:
        raise EvaluationMismatch(
            f"The weights do not fit the model of the factory {name!r} "
            f"({len(missing)} missing, {len(unexpected)} unexpected, {len(wrong)} of another "
            f"shape): {'; '.join(parts)}."
        )


def _stored_name(found: Probe, tensors: Sequence[StoredTensor]) -> str | None:
    if found.output_layer is None:
        return None
    names = NameMap(t.name for t in tensors)
    return next((n for key in found.output_layer if (n := names.find(key)) is not None), None)
