"""The places of a model's tensors, and how a factorised one can be put into each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from torch import Tensor, nn
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from rankpress.names import Kind


class How(Enum):
    """How a factorised tensor is put into its module."""

    LINEAR = auto()
    CONV = auto()
    EMBEDDING = auto()
    CONV1D = auto()  # transformers' [in, out]
    PARAMETRISE = auto()  # any other parameter: multiplied back at each use
    MATERIALISE = auto()  # buffers, which modules write to: multiplied back once


@dataclass(frozen=True, eq=False, kw_only=True)
class Slot:
    """A tensor's place in the model. One tensor may have several (tied weights)."""

    name: str
    module: nn.Module
    attribute: str
    tensor: Tensor
    is_buffer: bool


def slots_of(model: nn.Module) -> Iterator[Slot]:
    """Parameters and persistent buffers, each under every one of its names."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, tensor in module._parameters.items():
            if tensor is not None:
                yield _slot(prefix, module, attribute, tensor, is_buffer=False)
        for attribute, buffer in module._buffers.items():
            if buffer is not None and attribute not in module._non_persistent_buffers_set:
                yield _slot(prefix, module, attribute, buffer, is_buffer=True)


def _slot(
    prefix: str, module: nn.Module, attribute: str, tensor: Tensor, *, is_buffer: bool
) -> Slot:
    return Slot(
        name=f"{prefix}.{attribute}" if prefix else attribute,
        module=module,
        attribute=attribute,
        tensor=tensor,
        is_buffer=is_buffer,
    )


def how(slot: Slot, kind: Kind, *, is_root: bool) -> How:
    """A module is replaced only when it is known to do nothing more than its own kind does."""
    module = slot.module
    if slot.is_buffer or isinstance(module, ParametrizationList):
        return How.MATERIALISE
    if is_root or slot.attribute != "weight" or not _is_plain(module):
        return How.PARAMETRISE
    forward = type(module).forward
    if kind is Kind.MATRIX:
        if isinstance(module, nn.Linear) and forward is nn.Linear.forward:
            return How.LINEAR
        if isinstance(module, nn.Embedding) and forward is nn.Embedding.forward:
            # max_norm renormalises whole rows, which the factors do not have.
            return How.EMBEDDING if module.max_norm is None else How.PARAMETRISE
        if _is_transformers_conv1d(module):
            return How.CONV1D
    for conv in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        if isinstance(module, conv) and type(module).forward is conv.forward:
            two_layers = kind in (Kind.CONVOLUTION, Kind.CONVOLUTION_SPATIAL) and module.groups == 1
            return How.CONV if two_layers else How.PARAMETRISE
    return How.PARAMETRISE


def _is_plain(module: nn.Module) -> bool:
    """No hooks, which a replacement would lose, and no parametrisation of its own."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        module._state_dict_hooks,
        module._load_state_dict_pre_hooks,
    )
    return not any(hooks) and not is_parametrized(module) and not isinstance(module, RNNBase)


def _is_transformers_conv1d(module: nn.Module) -> bool:
    cls = type(module)
    return (cls.__module__, cls.__name__) == ("transformers.pytorch_utils", "Conv1D")
