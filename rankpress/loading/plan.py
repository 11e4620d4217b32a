"""What will be done to the model, decided before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import nn
from torch.nn.modules.conv import _ConvNd

from rankpress.loading.container import Compressed
from rankpress.loading.errors import DoesNotFit
from rankpress.loading.names import NameMap
from rankpress.loading.product import factor_shapes
from rankpress.loading.slots import How, Slot, how, slots_of
from rankpress.names import OutputLayout
from rankpress.schemas.manifest import ManifestLayer

V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Swap:
    """One parameter of the model, all its places, and the factors that replace it."""

    layer: ManifestLayer
    places: tuple[tuple[Slot, How], ...]
    new_bias: str | None = None  # key of a bias that the dense layer did not have


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A tensor that is loaded as it is, to all the names of one tensor of the model."""

    key: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    swaps: tuple[Swap, ...]
    copies: tuple[Copy, ...]


def make_plan(model: nn.Module, file: Compressed, *, strict: bool) -> Plan:
    """Raises `DoesNotFit` with all that is wrong at once; shapes count even when not strict."""
    slots = {slot.name: slot for slot in slots_of(model)}
    names = NameMap(slots)
    layers = () if file.manifest.layout is OutputLayout.DENSE else file.manifest.layers
    unexpected: list[str] = []
    mismatched = [m for layer in layers for m in _wrong_factors(layer, file)]

    # Every name of the original checkpoint: its tensor's key, or its layer.
    plain, extra_bias = _plain_names(file, layers)
    by_name: dict[str, ManifestLayer] = {layer.name: layer for layer in layers}
    for alias, holder in file.manifest.aliases.items():
        if holder in by_name:
            by_name.setdefault(alias, by_name[holder])
        elif holder in plain:
            plain.setdefault(alias, plain[holder])

    layer_at: dict[str, ManifestLayer] = {}
    key_at: dict[str, str] = {}
    new_bias: dict[str, str] = {}  # by layer name
    for name, layer in by_name.items():
        _place(names.find(name), name, layer, layer_at, unexpected)
    for name, key in plain.items():
        found = names.find(name)
        owner = extra_bias.get(name)
        if found is None and owner is not None and _takes_new_bias(owner, names, slots):
            new_bias[owner.name] = key
        else:
            _place(found, name, key, key_at, unexpected)

    mismatched += [
        _shape_says(name, layer.shape, slots[name])
        for name, layer in layer_at.items()
        if layer.shape != tuple(slots[name].tensor.shape)
    ]
    mismatched += [
        _shape_says(name, file.shapes[key], slots[name])
        for name, key in key_at.items()
        if file.shapes[key] != tuple(slots[name].tensor.shape)
    ]
    # A tensor that is tied to one in the file is there.
    there = {id(slots[name].tensor) for name in (*layer_at, *key_at)}
    missing = [n for n, slot in slots.items() if id(slot.tensor) not in there]
    if mismatched or (strict and (missing or unexpected)):
        raise DoesNotFit(
            missing=tuple(missing) if strict else (),
            unexpected=tuple(unexpected) if strict else (),
            mismatched=tuple(mismatched),
        )
    return Plan(
        swaps=tuple(_swaps(model, slots, layer_at, key_at, new_bias)),
        copies=tuple(_copies(slots, key_at)),
    )


def _plain_names(
    file: Compressed, layers: tuple[ManifestLayer, ...]
) -> tuple[dict[str, str], dict[str, ManifestLayer]]:
    """Original name -> key of every tensor that is no factor; and the layer of each bias."""
    factors = {key for layer in layers for key in (layer.right, layer.left)}
    biases = {layer.bias[1]: layer for layer in layers if layer.bias is not None}
    plain: dict[str, str] = {}
    owners: dict[str, ManifestLayer] = {}
    for key in file.shapes:
        if key in factors:
            continue
        layer = biases.get(key)
        name = key if layer is None or layer.bias is None else layer.bias[0]
        plain[name] = key
        if layer is not None:
            owners[name] = layer
    return plain, owners


def _place(found: str | None, name: str, value: V, at: dict[str, V], unexpected: list[str]) -> None:
    if found is None:
        unexpected.append(name)
    else:
        at[found] = value


def _wrong_factors(layer: ManifestLayer, file: Compressed) -> Iterator[str]:
    for key, expected in zip((layer.right, layer.left), factor_shapes(layer), strict=True):
        if key not in file.shapes:
            yield f"{layer.name}: the manifest names {key}, which the file lacks"
        elif file.shapes[key] != expected:
            yield f"{key}: {_text(file.shapes[key])} in the file, {_text(expected)} by the manifest"


def _shape_says(name: str, shape: tuple[int, ...], slot: Slot) -> str:
    there = tuple(slot.tensor.shape)
    said = f"{name}: {_text(shape)} in the file, {_text(there)} in the model"
    if len(shape) > 1 and shape == tuple(reversed(there)):
        return f"{said} (transposed: another kind of layer?)"
    if isinstance(slot.module, _ConvNd) and len(shape) == len(there) and shape[0] == there[0]:
        return f"{said} (the model's layer has groups={slot.module.groups})"
    return said


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _takes_new_bias(layer: ManifestLayer, names: NameMap, slots: dict[str, Slot]) -> bool:
    found = names.find(layer.name)
    if found is None:
        return False
    slot = slots[found]
    if getattr(slot.module, "bias", None) is not None:
        return False
    if how(slot, layer.kind, is_root=False) in (How.LINEAR, How.CONV, How.CONV1D):
        return True
    # A subclass with a forward of its own keeps its class, and takes its bias where its base does.
    own = isinstance(slot.module, nn.Linear | _ConvNd) and slot.attribute == "weight"
    return own and not slot.is_buffer and "bias" in slot.module._parameters


def _copies(slots: dict[str, Slot], key_at: dict[str, str]) -> Iterator[Copy]:
    # Names tied in the model but not in the file: the last one wins, as in load_state_dict.
    keys = {id(slots[name].tensor): key for name, key in key_at.items()}
    for identity, key in keys.items():
        yield Copy(key=key, slots=tuple(s for s in slots.values() if id(s.tensor) == identity))


def _swaps(
    model: nn.Module,
    slots: dict[str, Slot],
    layer_at: dict[str, ManifestLayer],
    key_at: dict[str, str],
    new_bias: dict[str, str],
) -> Iterator[Swap]:
    """One for each parameter, so that names tied in the model stay tied and others do not."""
    done: set[int] = set()
    for name, layer in layer_at.items():
        tensor = slots[name].tensor
        if id(tensor) in done:
            continue
        done.add(id(tensor))
        places: dict[tuple[int, str], Slot] = {}
        for slot in slots.values():
            same_layer = layer_at.get(slot.name, layer) is layer and slot.name not in key_at
            if slot.tensor is tensor and same_layer:
                # A module registered under two names is one place.
                places.setdefault((id(slot.module), slot.attribute), slot)
        yield Swap(
            layer=layer,
            places=tuple(
                (slot, how(slot, layer.kind, is_root=slot.module is model))
                for slot in places.values()
            ),
            new_bias=new_bias.get(layer.name),
        )
