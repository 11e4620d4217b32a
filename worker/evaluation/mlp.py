"""An architecture from shapes: linear layers in a chain, one activation between them.

What the shapes cannot say, that is that the layers follow each other with that activation, is an
assumption and is labelled so in the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rankpress.errors import EvaluationMismatch
from rankpress.names import Activation
from worker.evaluation.chain import MAX_LAYERS, LinearLayer, NoChain, SeveralChains, order_chain
from worker.tensors import StoredTensor

_COMPUTE_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.float32,  # half precision is upcast: slow or missing on CPU, noisy for scores
    "float16": torch.float32,
}
_USE_TEMPLATE = (
    "An architecture of kind 'mlp' is a chain of linear layers and nothing else; for another "
    "one send a template (rankpress.export_template) and architecture.kind 'template'."
)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Linear layers in the order in which they run."""

    layers: tuple[LinearLayer, ...]
    activation: Activation
    dtype: str  # torch's name of the dtype that is computed in
    stored_dtypes: tuple[str, ...]

    @property
    def words(self) -> str:
        widths = [self.layers[0].in_features, *(layer.out_features for layer in self.layers)]
        return f"mlp {'-'.join(map(str, widths))}, {self.activation}"

    @property
    def output_layer(self) -> str:
        return self.layers[-1].weight

    @property
    def compute_dtype(self) -> torch.dtype:
        return _COMPUTE_DTYPES[self.dtype]


def find_chain(tensors: Sequence[StoredTensor], activation: Activation, input_width: int) -> Chain:
    """The chain that the tensors form. Raises EvaluationMismatch naming what does not fit."""
    layers, dtypes = _linear_layers(tensors)
    try:
        ordered = order_chain(layers, input_width)
    except NoChain:
        raise EvaluationMismatch(_why_no_chain(layers, input_width)) from None
    except SeveralChains as several:
        raise EvaluationMismatch(
            "The shapes allow several orders of the linear layers: "
            f"{_names(several.first)}, or {_names(several.second)}. Number the layers in the "
            f"order in which they run, or send a template. {_USE_TEMPLATE}"
        ) from None
    widest = "float64" if "float64" in dtypes else "float32"
    return Chain(
        layers=ordered, activation=activation, dtype=widest, stored_dtypes=tuple(sorted(dtypes))
    )


def _linear_layers(tensors: Sequence[StoredTensor]) -> tuple[list[LinearLayer], set[str]]:
    by_name = {tensor.name: tensor for tensor in tensors}
    layers: list[LinearLayer] = []
    used: set[str] = set()
    for tensor in tensors:
        if not _is_weight(tensor.name) or len(tensor.shape) != 2:
            continue
        bias = by_name.get(tensor.name.removesuffix("weight") + "bias")
        if bias is not None and bias.shape != tensor.shape[:1]:
            raise EvaluationMismatch(
                f"The bias {bias.name!r} has shape {list(bias.shape)}, but its weight "
                f"{tensor.name!r} has shape {list(tensor.shape)}: [{tensor.shape[0]}] is expected."
            )
        used.update({tensor.name} | ({bias.name} if bias else set()))
        layers.append(
            LinearLayer(
                weight=tensor.name,
                bias=bias.name if bias else None,
                in_features=tensor.shape[1],
                out_features=tensor.shape[0],
            )
        )
    _refuse_others([t for t in tensors if t.name not in used])
    if not layers:
        raise EvaluationMismatch(
            "The model holds no 2-D tensor called '<layer>.weight', so there is no chain of "
            f"linear layers to evaluate. {_USE_TEMPLATE}"
        )
    if len(layers) > MAX_LAYERS:
        raise EvaluationMismatch(
            f"The model has {len(layers)} linear layers; at most {MAX_LAYERS} are put in order by "
            f"their shapes. {_USE_TEMPLATE}"
        )
    dtypes = {by_name[name].dtype for name in used}
    if strange := dtypes - set(_COMPUTE_DTYPES):
        raise EvaluationMismatch(
            f"The linear layers hold {', '.join(sorted(strange))}; a chain is evaluated in "
            f"{', '.join(_COMPUTE_DTYPES)} only."
        )
    return layers, dtypes


def _is_weight(name: str) -> bool:
    """Whatever wrappers (`module.`, `_orig_mod.`) put before it, the last part decides."""
    return name.rpartition(".")[2] == "weight"


def _refuse_others(others: Sequence[StoredTensor]) -> None:
    if not others:
        return
    shown = ", ".join(f"{t.name!r} {list(t.shape)}" for t in others[:3])
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    raise EvaluationMismatch(
        f"The model holds tensors that are no part of a chain of linear layers: {shown}{more}. "
        + _USE_TEMPLATE
    )


def _why_no_chain(layers: Sequence[LinearLayer], input_width: int) -> str:
    shapes = ", ".join(
        f"{layer.weight!r} [{layer.out_features}, {layer.in_features}]" for layer in layers[:8]
    )
    more = f" and {len(layers) - 8} more" if len(layers) > 8 else ""
    if all(layer.in_features != input_width for layer in layers):
        hint = (
            " The weights look transposed: a linear layer is stored as [out, in]."
            if any(layer.out_features == input_width for layer in layers)
            else ""
        )
        return (
            f"The validation data has {input_width} values a sample, but no linear layer takes "
            f"{input_width}: {shapes}{more} (as [out, in]).{hint}"
        )
    return (
        f"The linear layers do not follow each other in any order that starts at the data's "
        f"{input_width} values a sample and uses each once: {shapes}{more} (as [out, in]). "
        + _USE_TEMPLATE
    )


def _names(layers: Sequence[LinearLayer]) -> str:
    shown = " -> ".join(layer.weight for layer in layers[:6])
    return shown + (" -> ..." if len(layers) > 6 else "")
