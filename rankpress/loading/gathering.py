"""Runs a model over samples while its layers are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rankpress.loading.curvature import rooted
from rankpress.loading.watching import Watch
from rankpress.names import Sensitivity
from rankpress.schemas.statistics import SENSITIVITY, StatisticsInfo

EXACT_OUTPUTS = 64  # up to here one backward pass for each; beyond, random projections

Runner = Callable[[Any], torch.Tensor]


class NoStatistics(ValueError):
    """The samples or the model give no statistics; the text says why."""


def gather(
    model: nn.Module,
    batches: Iterable[Any],
    layers: Mapping[str, nn.Module],
    run: Runner,
    *,
    two_sided: bool,
    sensitivity: Sensitivity = Sensitivity.OUTPUT,
    projections: int = 1,
    seed: int = 0,
    mask_of: Callable[[Any], torch.Tensor | None] = lambda batch: None,
) -> tuple[dict[str, torch.Tensor], StatisticsInfo]:
    """The statistics (rankpress.schemas.statistics) of `layers`, by the keys of their weights.

    `run` gives a batch's output, samples first. The model runs in evaluation mode and is left as
    it was. `two_sided` needs samples that do not see each other, and `sensitivity` softmax an
    output of logits, its last axis the classes. Raises NoStatistics.
    """
    samples, exact = 0, True
    generator = torch.Generator().manual_seed(seed)
    watches = {key: Watch(module, two_sided=two_sided) for key, module in layers.items()}
    try:
        with _as_it_was(model), torch.set_grad_enabled(two_sided):
            for batch in batches:
                mask = mask_of(batch)
                for watch in watches.values():
                    watch.mask = mask
                output = run(batch)
                samples += output.shape[0]
                if two_sided:
                    exact = _backward(output, sensitivity, projections, generator)
    finally:
        for watch in watches.values():
            watch.stop()
    if samples == 0:
        raise NoStatistics("there are no samples")
    tensors: dict[str, torch.Tensor] = {}
    vectors: dict[str, int] = {}
    for key, watch in watches.items():
        if watch.inputs.count == 0 or (two_sided and watch.gradients.sum_MM is None):
            continue  # the output does not come through it
        vectors[key] = watch.inputs.count
        tensors |= watch.inputs.tensors(key)
        if two_sided and watch.gradients.sum_MM is not None:
            passes = 1 if exact else projections
            tensors[f"{key}/{SENSITIVITY}"] = watch.gradients.sum_MM / (samples * passes)
    check(tensors)
    info = StatisticsInfo(
        samples=samples,
        two_sided=two_sided,
        sensitivity=sensitivity,
        exact=exact if two_sided else None,
        vectors=vectors,
    )
    return tensors, info


def check(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises NoStatistics for none, or for what is not finite."""
    if not tensors:
        raise NoStatistics("no layer was used by the samples")
    if broken := [key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise NoStatistics(f"{broken[0]} is not finite")


def _backward(
    output: torch.Tensor, sensitivity: Sensitivity, projections: int, generator: torch.Generator
) -> bool:
    """Gradients by every output of a sample, or by random projections; True when exact.

    With R R^T = H, the sum of J^T R v v^T R^T J over unit vectors v is J^T H J, and so is its mean
    over v ~ N(0, I).
    """
    if not output.requires_grad:
        raise NoStatistics("the output does not depend on any of the layers")
    if sensitivity is Sensitivity.SOFTMAX and (output.dim() < 2 or output.shape[-1] < 2):
        raise NoStatistics("softmax needs two classes at least, as the output's last axis")
    width = output[0].numel()
    exact = width <= EXACT_OUTPUTS
    passes = width if exact else projections
    for i in range(passes):
        if exact:
            v = torch.zeros_like(output)
            v.reshape(output.shape[0], -1)[:, i] = 1
        else:
            flat = torch.randn((output.shape[0], width), generator=generator)
            v = flat.to(output).reshape(output.shape)
        direction = rooted(v, output.detach(), sensitivity)
        output.backward(direction, retain_graph=i + 1 < passes)  # type: ignore[no-untyped-call]
    return exact


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients kept by parameters; afterwards as before."""
    modes = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval().requires_grad_(requires_grad=False)
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, requires in wanted.items():
            parameter.requires_grad_(requires)


def first_tensor(answer: Any) -> torch.Tensor:
    """The output of a model: a tensor, `logits` of a structured answer, else its first floating
    tensor. Raises NoStatistics."""
    if isinstance(answer, torch.Tensor):
        return answer
    logits = getattr(answer, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    leaves: Sequence[Any] = (
        list(answer.values()) if isinstance(answer, Mapping) else list(answer or ())
    )
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return leaf
    raise NoStatistics("the model's answer holds no floating tensor; say which by `output`")
