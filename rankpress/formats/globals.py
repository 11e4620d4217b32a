"""The names that a checkpoint's pickle may mention: those that torch.load(weights_only=True)
of torch 2.13 allows by itself. They are recorded, never imported."""

from __future__ import annotations

from rankpress.formats.dtypes import BITS, STORAGES
from rankpress.formats.nodes import Global

REBUILD_STRIDED = frozenset(
    f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "qtensor")
)
REBUILD_PARAMETER = frozenset(
    f"torch._utils._rebuild_{name}" for name in ("parameter", "parameter_with_state")
)
REBUILD_OTHER = frozenset(
    f"torch._utils._rebuild_{name}"
    for name in (
        "sparse_tensor",
        "meta_tensor_no_storage",
        "nested_tensor",
        "wrapper_subclass",
        "device_tensor_from_numpy",
        "device_tensor_from_cpu_tensor",
    )
) | {"torch._tensor._rebuild_from_type_v2"}

_DTYPES = frozenset(f"torch.{name}" for name in BITS if not name.startswith("float6_"))
_STORAGES = frozenset(
    f"{module}.{name}" for name in STORAGES for module in ("torch", "torch.cuda", "torch.storage")
) | {"torch.storage.TypedStorage"}
_KINDS = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
_TENSORS = frozenset(
    f"{module}.{kind}Tensor"
    for kind in _KINDS
    for module in ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse")
)
_QSCHEMES = frozenset(
    f"torch.{name}"
    for name in (
        "per_tensor_affine",
        "per_tensor_symmetric",
        "per_channel_affine",
        "per_channel_symmetric",
        "per_channel_affine_float_qparams",
    )
)
_PLAIN = frozenset(
    (
        "collections.OrderedDict",
        "collections.Counter",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.set",
        "builtins.complex",
    )
)
ALLOWED = (
    _DTYPES
    | _STORAGES
    | _TENSORS
    | _QSCHEMES
    | _PLAIN
    | REBUILD_STRIDED
    | REBUILD_PARAMETER
    | REBUILD_OTHER
)

# Python 2 names of the same things.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def named(module: str, name: str) -> Global:
    return Global(_RENAMED.get(module, module), name)


def is_allowed(found: Global) -> bool:
    return str(found) in ALLOWED


def dtype_of(value: object) -> str | None:
    """`torch.float32` -> `float32`; None for anything that is no dtype."""
    if isinstance(value, Global) and value.module == "torch" and value.name in BITS:
        return value.name
    return None


def storage_dtype(value: object) -> str | None:
    """`torch.FloatStorage` -> `float32`; None for anything that is no storage class."""
    if isinstance(value, Global) and str(value) in _STORAGES:
        return STORAGES.get(value.name)
    return None
