"""Carrying a plan out: everything is read and built first, then put in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils import parametrize

from rankpress.loading.container import Compressed
from rankpress.loading.errors import LoadError
from rankpress.loading.layers import (
    FactorisedConv,
    FactorisedConv1D,
    FactorisedEmbedding,
    FactorisedLinear,
    LowRank,
)
from rankpress.loading.plan import Copy, Plan, Swap
from rankpress.loading.product import multiply
from rankpress.loading.slots import How, Slot


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Of one swap, in the dtype and on the device of the parameter they replace."""

    right: nn.Parameter
    left: nn.Parameter
    new_bias: nn.Parameter | None


def apply_plan(model: nn.Module, file: Compressed, plan: Plan) -> None:
    """Raises `LoadError` before the model is touched, never in the middle."""
    with torch.no_grad():
        values = [(copy, _value(copy, file)) for copy in plan.copies]
        factors = [(swap, _factors(swap, file)) for swap in plan.swaps]
        for copy, value in values:
            _put(copy.slots, value)
        for swap, pair in factors:
            for slot, how in swap.places:
                _swap(model, slot, how, swap, pair)
            for module in {slot.module for slot, _ in swap.places}:
                if isinstance(module, RNNBase):
                    # It keeps a list of its weights: drop the dense one from it.
                    module._init_flat_weights()


def _value(copy: Copy, file: Compressed) -> Tensor:
    value, there = _read(file, copy.key), copy.slots[0].tensor
    if _numbers(value) != _numbers(there):
        raise LoadError(
            f"{copy.slots[0].name}: {value.dtype} in the file, {there.dtype} in the model"
        )
    return _converted(value, there, copy.key)


def _numbers(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _read(file: Compressed, key: str) -> Tensor:
    try:
        return file.load(key)
    except (OSError, RuntimeError, KeyError) as error:
        raise LoadError(f"{key}: cannot be read from the file") from error


def _converted(value: Tensor, there: Tensor, key: str) -> Tensor:
    """In the dtype of the model's tensor and on its device; a meta tensor's place is the CPU."""
    device = torch.device("cpu") if there.is_meta else there.device
    converted = value.to(device=device, dtype=there.dtype)
    if (
        converted.dtype != value.dtype
        and converted.is_floating_point()
        and bool(value.isfinite().all())
        and not bool(converted.isfinite().all())
    ):
        raise LoadError(f"{key}: its values do not fit the model's {there.dtype}")
    return converted


def _factors(swap: Swap, file: Compressed) -> Factors:
    there = swap.places[0][0].tensor
    grad = there.requires_grad

    def parameter(key: str) -> nn.Parameter:
        return nn.Parameter(_converted(_read(file, key), there, key).clone(), requires_grad=grad)

    return Factors(
        right=parameter(swap.layer.right),
        left=parameter(swap.layer.left),
        new_bias=None if swap.new_bias is None else parameter(swap.new_bias),
    )


def _put(slots: tuple[Slot, ...], value: Tensor) -> None:
    """Into the tensor that is there, so that optimisers and ties keep it; a meta tensor has no
    memory, and is replaced under each of its names."""
    there = slots[0].tensor
    if not there.is_meta:
        there.copy_(value)
        return
    value = value.clone()
    parameter = nn.Parameter(value, requires_grad=there.requires_grad)
    for slot in slots:
        if slot.is_buffer:
            slot.module._buffers[slot.attribute] = value
        else:
            slot.module._parameters[slot.attribute] = parameter


def _swap(model: nn.Module, slot: Slot, how: How, swap: Swap, factors: Factors) -> None:
    module, kind, shape = slot.module, swap.layer.kind, swap.layer.shape
    right, left = factors.right, factors.left
    if how is How.MATERIALISE:
        _put((slot,), multiply(kind, shape, right, left))
        return
    if how is How.PARAMETRISE:
        lowrank = LowRank(kind, shape, right, left)
        parametrize.register_parametrization(module, slot.attribute, lowrank)
        # The very parameters, so that tied places stay tied.
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        parametrizations.train(module.training)
        originals = parametrizations[slot.attribute]
        originals.original0, originals.original1 = right, left
        if factors.new_bias is not None:
            module.register_parameter("bias", factors.new_bias)
        return
    bias = module._parameters.get("bias")
    if bias is None:
        bias = factors.new_bias
    new: nn.Module
    if how is How.LINEAR:
        new = FactorisedLinear(right, left, bias)
    elif how is How.CONV:
        assert isinstance(module, _ConvNd)
        new = FactorisedConv(module, kind, right, left, bias)
    elif how is How.EMBEDDING:
        assert isinstance(module, nn.Embedding)
        new = FactorisedEmbedding(module, right, left)
    else:
        new = FactorisedConv1D(right, left, bias)
    new.train(module.training)
    _replace(model, module, new)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """At every place where the module is registered."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
