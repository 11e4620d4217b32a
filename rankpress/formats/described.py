"""From the calls that a pickle describes to tensors: dtype, shape, and where the bytes lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from rankpress.errors import CorruptFile
from rankpress.formats import dtypes
from rankpress.formats.globals import REBUILD_PARAMETER, REBUILD_STRIDED, dtype_of
from rankpress.formats.nodes import Call, Global, Storage, Value
from rankpress.formats.safetensors import MAX_DIMENSIONS
from rankpress.names import Reason

PARAMETERS = REBUILD_PARAMETER | {"torch.nn.parameter.Parameter"}
_DAMAGED = "a tensor in the pickle is described by impossible numbers"


class Layout(StrEnum):
    STRIDED = "strided"
    QUANTISED = "quantised"
    SPARSE = "sparse"
    META = "meta"  # no values anywhere
    OTHER = "other"  # nested, a subclass, of another device: kept as it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """A tensor of a pickle. `stride` and `offset` count elements of `dtype`."""

    layout: Layout
    dtype: str
    shape: tuple[int, ...]
    call: Call  # the call that rebuilds it, without the Parameter around it
    storage: Storage | None = None
    stride: tuple[int, ...] = ()
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Logical bytes: what a contiguous copy takes."""
        return 0 if self.layout is Layout.META else dtypes.nbytes(self.dtype, self.shape)

    @property
    def extent(self) -> int:
        """Elements of the storage up to the last one that the tensor reaches."""
        if not math.prod(self.shape):
            return 0
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return self.offset + reach + 1

    @property
    def contiguous(self) -> bool:
        expected = 1
        for n, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if n != 1 and step != expected:
                return not math.prod(self.shape)
            expected *= n
        return True

    @property
    def passthrough(self) -> Reason | None:
        if self.layout is Layout.SPARSE:
            return Reason.SPARSE
        if self.layout is Layout.META:
            return Reason.META
        if self.layout is Layout.OTHER:
            return Reason.SPECIAL_TENSOR
        return dtypes.passthrough(self.dtype)


def described(value: Value) -> Described | None:
    """The tensor that a value of the pickle is, or None. Raises `CorruptFile` for one that is
    described by numbers that cannot be."""
    if type(value) is not Call:
        return None
    name, args = str(value.function), value.args
    while name in PARAMETERS and args and type(args[0]) is Call:
        value = args[0]
        name, args = str(value.function), value.args
    builder = _BUILDERS.get(name)
    if builder is None:
        return None
    try:
        return builder(value, *args)
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise CorruptFile(_DAMAGED) from error


def _counts(value: Value) -> tuple[int, ...]:
    if type(value) is Call and str(value.function) == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    if type(value) not in (tuple, list) or len(value) > MAX_DIMENSIONS:
        raise ValueError
    if not all(type(n) is int and 0 <= n < 2**62 for n in value):
        raise ValueError
    return tuple(value)


def _strided(
    call: Call,
    storage: Value,
    offset: Value,
    size: Value,
    stride: Value,
    requires_grad: Value = None,
    hooks: Value = None,
    metadata: Value = None,
) -> Described:
    return _on_storage(call, storage, offset, size, stride, None, metadata)


def _strided_typed(
    call: Call,
    storage: Value,
    offset: Value,
    size: Value,
    stride: Value,
    requires_grad: Value,
    hooks: Value,
    dtype: Value,
    metadata: Value = None,
) -> Described:
    return _on_storage(call, storage, offset, size, stride, dtype_of(dtype), metadata)


def _on_storage(
    call: Call,
    storage: Value,
    offset: Value,
    size: Value,
    stride: Value,
    dtype: str | None,
    metadata: Value,
) -> Described:
    if not isinstance(storage, Storage) or type(offset) is not int or not 0 <= offset < 2**62:
        raise ValueError
    shape, steps = _counts(size), _counts(stride)
    if len(shape) != len(steps):
        raise ValueError
    kind = dtype or storage.dtype
    layout = Layout.QUANTISED if kind in dtypes.QUANTISED else Layout.STRIDED
    if metadata:  # the conjugate or negative bit: the values are not the bytes
        layout = Layout.OTHER
    return Described(
        layout=layout,
        dtype=kind,
        shape=shape,
        stride=steps,
        offset=offset,
        storage=storage,
        call=call,
    )


def _quantised(
    call: Call,
    storage: Value,
    offset: Value,
    size: Value,
    stride: Value,
    quantizer: Value,
    requires_grad: Value,
    hooks: Value,
) -> Described:
    found = _on_storage(call, storage, offset, size, stride, None, None)
    if found.layout is not Layout.QUANTISED or type(quantizer) is not tuple or len(quantizer) < 3:
        raise ValueError
    return found


def _sparse(call: Call, layout: Value, data: Value) -> Described:
    if type(data) is not tuple or len(data) not in (3, 4):
        raise ValueError
    *parts, size = data[:-1] if type(data[-1]) in (bool, type(None)) else data
    values = parts[-1] if parts else None
    if type(values) is not Call or str(values.function) not in REBUILD_STRIDED:
        raise ValueError
    values = _BUILDERS[str(values.function)](values, *values.args)
    return Described(layout=Layout.SPARSE, dtype=values.dtype, shape=_counts(size), call=call)


def _meta(call: Call, dtype: Value, size: Value, stride: Value, requires_grad: Value) -> Described:
    kind = dtype_of(dtype)
    if kind is None:
        raise ValueError
    return Described(layout=Layout.META, dtype=kind, shape=_counts(size), call=call)


def _wrapper(call: Call, cls: Value, dtype: Value, size: Value, *rest: Value) -> Described:
    kind = dtype_of(dtype)
    if kind is None or not isinstance(cls, Global):
        raise ValueError
    return Described(layout=Layout.OTHER, dtype=kind, shape=_counts(size), call=call)


def _around(call: Call, data: Value, *rest: Value) -> Described:
    inner = described(data)
    if inner is None:
        raise ValueError
    return Described(layout=Layout.OTHER, dtype=inner.dtype, shape=inner.shape, call=call)


def _from_type(call: Call, function: Value, cls: Value, args: Value, state: Value) -> Described:
    """A tensor with attributes, or of a subclass: the plain tensor inside, kept as it is."""
    if not isinstance(function, Global) or type(args) is not tuple:
        raise ValueError
    inner = described(Call(function, args))
    if inner is None:
        raise ValueError
    if str(cls) in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        return inner
    return Described(layout=Layout.OTHER, dtype=inner.dtype, shape=inner.shape, call=call)


_BUILDERS: dict[str, Callable[..., Described]] = {
    "torch._utils._rebuild_tensor": _strided,
    "torch._utils._rebuild_tensor_v2": _strided,
    "torch._utils._rebuild_tensor_v3": _strided_typed,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_wrapper_subclass": _wrapper,
    "torch._utils._rebuild_nested_tensor": _around,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _around,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}
