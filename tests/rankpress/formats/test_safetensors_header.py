"""The header of safetensors, field by field."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from rankpress.errors import CorruptFile, InvalidFile, PayloadTooLarge, UnsupportedFormat
from rankpress.formats import Limits, dtypes
from rankpress.formats.safetensors import Header, read_header


def file_of(header: Any, data: bytes = b"", text: str | None = None) -> bytes:
    raw = (json.dumps(header) if text is None else text).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw + data


def read(data: bytes) -> Header:
    return read_header(io.BytesIO(data), len(data), Limits())


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD: dict[str, bytes] = {
    "hole at the start": file_of({"a": entry(offsets=(4, 12))}, bytes(12)),
    "hole in the middle": file_of({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "overlap": file_of({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "past the end": file_of({"a": entry(offsets=(0, 8))}, bytes(4)),
    "bytes left over": file_of({"a": entry()}, bytes(9)),
    "wrong size": file_of({"a": entry(shape=(3,))}, bytes(8)),
    "backwards": file_of({"a": entry(offsets=(8, 0))}, bytes(8)),
    "negative": file_of({"a": entry(shape=(-2,))}, bytes(8)),
    "float shape": file_of({"a": entry(shape=(2.0,))}, bytes(8)),
    "boolean shape": file_of({"a": entry(shape=(True, 2))}, bytes(8)),
    "65 dimensions": file_of({"a": entry(shape=[1] * 64 + [2])}, bytes(8)),
    "shape of 2^200": file_of({"a": entry(shape=[2**62] * 4)}, bytes(8)),
    "dtype no text": file_of({"a": entry(dtype=["F32"])}, bytes(8)),
    "field missing": file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "field too many": file_of({"a": entry() | {"x": 1}}, bytes(8)),
    "no object": file_of([1]),
    "tensor no object": file_of({"a": 1}),
    "name twice": file_of(None, bytes(8), text='{"a":%s,"a":%s}' % ((json.dumps(entry()),) * 2)),
    "nan": file_of(None, text='{"a": NaN}'),
    "not utf-8": struct.pack("<Q", 4) + b'{"\xff}',
    "deep": file_of(None, text='{"a":' + "[" * 100_000),
    "endless integer": file_of(None, text='{"a": ' + "9" * 10_000 + "}"),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}}),
    "metadata no object": file_of({"__metadata__": "a"}),
    "cut header": struct.pack("<Q", 100) + b'{"a"',
    "short": b"\x00\x00",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_corrupt(name: str) -> None:
    with pytest.raises(CorruptFile):
        read(BAD[name])


@pytest.mark.parametrize(
    "data",
    [
        file_of({"a": entry(dtype="F128")}, bytes(8)),
        file_of({"a": entry("F4", (4, 3), (0, 6))}, bytes(6)),
    ],
)
def test_unknown_element_types_are_named(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match=r"F128|F4"):
        read(data)


@pytest.mark.parametrize("code", dtypes.SAFETENSORS)
def test_every_element_type(code: str) -> None:
    bits = 4 if code == "F4" else dtypes.BITS[dtypes.SAFETENSORS[code]]
    data = file_of({"a": entry(code, (3, 8), (0, 3 * bits))}, bytes(3 * bits))
    (found,) = read(data).entries
    assert found.dtype == dtypes.SAFETENSORS[code]
    assert found.shape == ((3, 4) if code == "F4" else (3, 8))
    assert found.nbytes == 3 * bits


def test_no_tensors_and_empty_tensors() -> None:
    assert read(save({})).entries == ()
    header = read(file_of({"a": entry(shape=(0, 7), offsets=(0, 0)), "b": entry()}, bytes(8)))
    assert {e.name: e.shape for e in header.entries} == {"a": (0, 7), "b": (2,)}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_read_or_refused(document: Any) -> None:
    for header in (document, {"a": document}, {"a": entry(shape=document)}):
        with contextlib.suppress(InvalidFile):
            read(file_of(header, bytes(8)))


def test_a_header_of_empty_lists_is_not_parsed() -> None:
    data = file_of(None, text='{"a":[' + "[]," * 50_000 + "[]]}")
    with pytest.raises(PayloadTooLarge, match="1000 tensors"):
        read_header(io.BytesIO(data), len(data), Limits(max_tensors=1000))
