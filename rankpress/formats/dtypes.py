"""Element types: torch's names, their sizes in bits, and what other formats call them."""

from __future__ import annotations

import math

from rankpress.names import Reason

BITS: dict[str, int] = {
    **dict.fromkeys(("bool", "uint8", "int8", "qint8", "quint8", "bits8"), 8),
    **dict.fromkeys(
        ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 8
    ),
    **dict.fromkeys(("quint4x2", "quint2x4", "bits1x8", "bits2x4", "bits4x2"), 8),
    "float4_e2m1fn_x2": 8,  # two values a byte; shapes count the bytes, as in torch
    **dict.fromkeys((f"{sign}int{n}" for sign in ("", "u") for n in range(1, 8)), 8),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16", "bits16"), 16),
    **dict.fromkeys(("int32", "uint32", "float32", "complex32", "qint32"), 32),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 64),
    "complex128": 128,
    "float6_e2m3": 6,  # no torch dtype; carried as bytes
    "float6_e3m2": 6,
}

SAFETENSORS: dict[str, str] = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "F6_E2M3": "float6_e2m3",
    "F6_E3M2": "float6_e3m2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
TO_SAFETENSORS = {name: code for code, name in SAFETENSORS.items()}

# torch's storage classes, by the element type that they stand for in a pickle.
STORAGES: dict[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QUInt8Storage": "quint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}
TO_STORAGES = {name: cls for cls, name in STORAGES.items() if cls != "UntypedStorage"}

QUANTISED = frozenset(("qint8", "quint8", "qint32", "quint4x2", "quint2x4"))
FACTORISABLE = frozenset(("float16", "bfloat16", "float32", "float64"))


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of the elements, packed without gaps. Raises `KeyError` for an unknown dtype."""
    return (math.prod(shape) * BITS[dtype] + 7) // 8


def passthrough(dtype: str) -> Reason | None:
    """Why tensors of this element type are never factorised; None for the four that may be."""
    if dtype in FACTORISABLE:
        return None
    if dtype in QUANTISED:
        return Reason.QUANTISED
    if dtype == "bool":
        return Reason.BOOLEAN
    if dtype.startswith("complex"):
        return Reason.COMPLEX
    if dtype.startswith("float8"):
        return Reason.FLOAT8
    if dtype.startswith("float6_"):
        return Reason.FLOAT6
    if dtype.startswith("float4"):
        return Reason.FLOAT4
    return Reason.INTEGER
