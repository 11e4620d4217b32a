"""The safetensors header, checked to the last byte before any tensor is touched.

Layout: 8 bytes little-endian header length, that many bytes of JSON (padded with spaces), then
the tensors' bytes without holes. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from rankpress.errors import CorruptFile, PayloadTooLarge, UnsupportedFormat
from rankpress.formats import dtypes
from rankpress.formats.binary import read_at
from rankpress.formats.limits import Limits

PREFIX_BYTES = 8
MAX_DIMENSIONS = 64  # as in torch
# A tensor of eight dimensions has 17; keys and metadata may hold such characters, too.
_PARTS_PER_TENSOR = 24
_PARTS_BESIDE = 10_000
_HINT = "write it again with safetensors.torch.save_file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One tensor. `offset` is in the file, not in the data section."""

    name: str
    dtype: str  # torch's name
    shape: tuple[int, ...]  # as torch counts: float4_e2m1fn_x2 by bytes
    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Header:
    entries: tuple[Entry, ...]  # by offset
    metadata: dict[str, str]


def read_header(file: IO[bytes], size: int, limits: Limits) -> Header:
    """Raises `CorruptFile`, `UnsupportedFormat` (an element type) and `PayloadTooLarge`."""
    if size < PREFIX_BYTES:
        raise CorruptFile(f"{size} bytes are too few for a safetensors file; {_HINT}")
    length = int.from_bytes(read_at(file, 0, PREFIX_BYTES, "the header length"), "little")
    if length > size - PREFIX_BYTES:
        raise CorruptFile(
            f"the safetensors header announces {length} bytes, but only {size - PREFIX_BYTES} "
            "follow: the file was cut short, or is none; send it again"
        )
    if length > limits.max_header_bytes:
        raise PayloadTooLarge(
            f"the safetensors header is {length} bytes long; the limit is "
            f"{limits.max_header_bytes} bytes"
        )
    document = parse_json(
        read_at(file, PREFIX_BYTES, length, "the header"), "safetensors header", limits
    )
    if not isinstance(document, dict):
        raise CorruptFile(f"the safetensors header is no JSON object; {_HINT}")
    metadata = _metadata(document.pop("__metadata__", {}))
    if len(document) > limits.max_tensors:
        raise PayloadTooLarge(
            f"the file names {len(document)} tensors; the limit is {limits.max_tensors}"
        )
    data_start = PREFIX_BYTES + length
    entries = sorted(
        (_entry(name, value, data_start) for name, value in document.items()),
        key=lambda entry: (entry.offset, entry.nbytes),
    )
    _check_contiguous(entries, data_start, size)
    return Header(entries=tuple(entries), metadata=metadata)


def parse_json(data: bytes, what: str, limits: Limits) -> Any:
    """JSON without duplicate keys, NaN or bottomless nesting. Raises `CorruptFile`, and
    `PayloadTooLarge` when it has more parts than the tensors that are allowed could need: a few
    bytes of JSON may take fifty times as many when they are parsed."""
    parts = sum(data.count(mark) for mark in (b"[", b"{", b":", b","))
    if parts > _PARTS_PER_TENSOR * limits.max_tensors + _PARTS_BESIDE:
        raise PayloadTooLarge(
            f"the {what} has {parts} parts, more than {limits.max_tensors} tensors need, which is "
            "the limit"
        )

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise CorruptFile(f"the {what} names {clip(name)} twice")
        return found

    def no_constant(name: str) -> NoReturn:
        raise CorruptFile(f"the {what} holds {name}, which is no JSON")

    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=no_duplicates, parse_constant=no_constant
        )
    except UnicodeDecodeError as error:
        raise CorruptFile(f"the {what} is not UTF-8") from error
    except RecursionError as error:
        raise CorruptFile(f"the {what} is nested too deeply") from error
    except ValueError as error:
        raise CorruptFile(f"the {what} is not valid JSON") from error


def clip(name: object, length: int = 120) -> str:
    """A name out of the file, for an error text: quoted, printable and short."""
    text = ascii(name)
    return text if len(text) <= length else f"{text[:length]}..."


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise CorruptFile("the safetensors __metadata__ must map strings to strings")
    return value


def _counts(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        return None
    if not all(type(n) is int and 0 <= n < 2**63 for n in value):
        return None
    return tuple(value)


def _entry(name: str, value: Any, data_start: int) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CorruptFile(
            f"the safetensors header says of {clip(name)} something other than dtype, shape and "
            "data_offsets"
        )
    code, shape, offsets = value["dtype"], _counts(value["shape"]), _counts(value["data_offsets"])
    if not isinstance(code, str):
        raise CorruptFile(f"the element type of tensor {clip(name)} is not valid")
    if code not in dtypes.SAFETENSORS:
        raise UnsupportedFormat(
            f"tensor {clip(name)} has the element type {clip(code)}; known are "
            f"{', '.join(dtypes.SAFETENSORS)}"
        )
    if shape is None or offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CorruptFile(f"the shape or the offsets of tensor {clip(name)} are not valid")
    dtype = dtypes.SAFETENSORS[code]
    bits = math.prod(shape) * (4 if code == "F4" else dtypes.BITS[dtype])
    nbytes = offsets[1] - offsets[0]
    if bits != nbytes * 8:
        raise CorruptFile(
            f"tensor {clip(name)} of type {code} and shape {list(shape)} needs {bits} bits, "
            f"but the header gives it {nbytes}"
        )
    if code == "F4":
        if not shape or shape[-1] % 2:
            raise UnsupportedFormat(
                f"tensor {clip(name)} of type F4 has the shape {list(shape)}; two values share a "
                "byte, so the last dimension must be even"
            )
        shape = (*shape[:-1], shape[-1] // 2)
    return Entry(name=name, dtype=dtype, shape=shape, offset=data_start + offsets[0], nbytes=nbytes)


def _check_contiguous(entries: list[Entry], data_start: int, size: int) -> None:
    end = data_start
    for entry in entries:
        if entry.offset != end:
            kind = "overlaps the one before it" if entry.offset < end else "leaves a hole before it"
            raise CorruptFile(f"the bytes of tensor {clip(entry.name)} {kind}; {_HINT}")
        end += entry.nbytes
    if end != size:
        found = "was cut short" if size < end else "has bytes after its last tensor"
        raise CorruptFile(
            f"the header describes a file of {end} bytes, and {size} were sent: the file {found}"
        )
