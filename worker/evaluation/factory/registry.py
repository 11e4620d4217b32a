"""The factories of this installation: entry points, and ready ones for three known libraries.

An entry point in the group `rankpress.architectures` names a callable that takes JSON arguments
and returns an nn.Module without loading weights. It is the operator's own code, installed beside
the worker; a caller only chooses its name and arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from rankpress.errors import EvaluationMismatch
from worker.evaluation.factory import ready

GROUP = "rankpress.architectures"
Factory = Callable[..., nn.Module]

_READY: Mapping[str, Factory] = {
    "torchvision": ready.torchvision_model,
    "timm": ready.timm_model,
    "transformers": ready.transformers_model,
}


def find_factory(name: str | None) -> Factory:
    """Raises EvaluationMismatch for a name that is not installed."""
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if name in installed:
        factory: Factory = installed[name].load()
        return factory
    if name is not None and name in _READY:
        return _READY[name]
    known = ", ".join(sorted({*installed, *_READY}))
    said = "is missing" if not name else f"{name[:80]!r} is not installed"
    raise EvaluationMismatch(
        f"evaluation.architecture.name {said}; this service has the factories {known}."
    )


def make_model(name: str | None, arguments: Mapping[str, Any]) -> nn.Module:
    """The untrained model, on the default device. Raises EvaluationMismatch."""
    factory = find_factory(name)
    try:
        model = factory(**arguments)
    except EvaluationMismatch:
        raise
    except Exception as error:  # whatever the operator's or a library's code raises
        raise EvaluationMismatch(
            f"The factory {name!r} makes no model from evaluation.architecture.arguments "
            f"({type(error).__name__}); it was given {', '.join(sorted(arguments)) or 'nothing'}."
        ) from error
    if not isinstance(model, nn.Module):
        raise EvaluationMismatch(f"The factory {name!r} gave no nn.Module.")
    return model
