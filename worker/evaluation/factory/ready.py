"""Factories for torchvision, timm and transformers: by name and configuration, never by download.

Each takes only names that the installed library itself defines, and no argument that would fetch
weights or code.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from rankpress.errors import EvaluationMismatch

_TIMM_ARGUMENTS = frozenset(("num_classes", "in_chans", "global_pool", "img_size", "patch_size"))
_FETCHING = ("weights", "weights_backbone", "pretrained", "progress")
_REMOTE = ("auto_map", "trust_remote_code", "_name_or_path", "name_or_path", "code_revision")


def torchvision_model(*, model: str, **arguments: Any) -> nn.Module:
    """`model` is one of torchvision.models.list_models(); other arguments go to its builder."""
    models = _library("torchvision").models
    _known("torchvision", model, models.list_models())
    _without("torchvision", arguments, _FETCHING)
    made: nn.Module = models.get_model(model, weights=None, **arguments)
    return made


def timm_model(*, model: str, **arguments: Any) -> nn.Module:
    """`model` is one of timm.list_models(); num_classes, in_chans, global_pool, img_size and
    patch_size may be given."""
    timm = _library("timm")
    _known("timm", model, timm.list_models())
    if extra := sorted(set(arguments) - _TIMM_ARGUMENTS):
        raise EvaluationMismatch(
            f"The factory 'timm' takes {', '.join(sorted(_TIMM_ARGUMENTS))}, not {extra[0][:80]!r}."
        )
    made: nn.Module = timm.create_model(model, pretrained=False, **arguments)
    return made


def transformers_model(*, model: str, config: Mapping[str, Any]) -> nn.Module:
    """`model` is a class such as "BertForSequenceClassification", `config` its config.json."""
    transformers = _library("transformers")
    _without("transformers", config, _REMOTE)
    found: Any = getattr(transformers, model, None) if model.isidentifier() else None
    known = inspect.isclass(found) and issubclass(found, transformers.PreTrainedModel)
    if not known:
        raise EvaluationMismatch(
            f"The factory 'transformers' knows no model class {model[:80]!r}; give one of the "
            "installed library, such as 'BertForSequenceClassification'."
        )
    config_class = found.config_class
    if config_class is None:
        raise EvaluationMismatch(f"The class {model!r} has no configuration of its own.")
    made: nn.Module = found(config_class.from_dict(dict(config)))
    return made


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EvaluationMismatch(
            f"The factory {name!r} needs the library {name}, which this worker does not have; "
            "send a template instead."
        ) from error


def _known(factory: str, model: str, names: list[str]) -> None:
    if model not in names:
        raise EvaluationMismatch(f"The factory {factory!r} has no model {model[:80]!r}.")


def _without(factory: str, arguments: Mapping[str, Any], refused: tuple[str, ...]) -> None:
    if found := [name for name in arguments if name in refused]:
        raise EvaluationMismatch(
            f"The factory {factory!r} does not take {found[0]!r}: weights come from the upload, "
            "and code from the installed library alone."
        )
