"""One pass of an untrained model: the output's shape, and which layer ran last.

On the meta device where the model allows it, without memory or time; a model that looks at values
(whether a mask is all ones) is made once more, for real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from rankpress.errors import EvaluationMismatch


@dataclass(frozen=True, kw_only=True)
class Probe:
    """`output_layer` are the state_dict keys (several when tied) of the last weight that ran."""

    output_shape: tuple[int | None, ...]
    output_layer: tuple[str, ...] | None


Run = Callable[[nn.Module, Mapping[str, torch.Tensor]], torch.Tensor]


def probe(
    meta_model: nn.Module,
    make: Callable[[], nn.Module],
    sample: Mapping[str, torch.Tensor],
    run: Run,
) -> Probe:
    """`sample` is one row of each input. Raises EvaluationMismatch when the model refuses it."""
    failure: Exception | None = None
    for device in ("meta", "cpu"):
        try:
            model = meta_model if device == "meta" else make()
            return _pass(model, {name: t.to(device) for name, t in sample.items()}, run)
        except EvaluationMismatch:
            raise
        except Exception as error:  # noqa: BLE001  (whatever the model's own code raises)
            failure = error
    shapes = ", ".join(
        f"{name} {str(t.dtype).removeprefix('torch.')} {list(t.shape)}"
        for name, t in sample.items()
    )
    raise EvaluationMismatch(
        f"The model of the factory does not take one sample of the validation data ({shapes}): "
        f"{type(failure).__name__}."
    ) from failure


def _pass(model: nn.Module, inputs: Mapping[str, torch.Tensor], run: Run) -> Probe:
    last: list[torch.Tensor] = []

    def note(module: nn.Module, *_: object) -> None:
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() >= 2:
            last[:] = [weight]

    hooks = [
        module.register_forward_hook(note)
        for module in model.modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            output = run(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if output.dim() == 0 or output.shape[0] != 1:
        raise EvaluationMismatch(
            f"The model of the factory answers one sample with the shape {list(output.shape)}; the "
            "first axis must be the batch."
        )
    keys = tuple(
        key for key, value in model.state_dict(keep_vars=True).items() if last and value is last[0]
    )
    return Probe(output_shape=tuple(output.shape[1:]), output_layer=keys or None)
