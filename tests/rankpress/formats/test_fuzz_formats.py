"""Whatever the bytes, the answer is facts or a RankpressError."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from rankpress.errors import RankpressError
from rankpress.formats import Limits, inspect_file
from rankpress.formats.manifest import manifest_of

EXAMPLES = int(os.environ.get("RANKPRESS_FUZZ_EXAMPLES", "60"))
LIMITS = Limits(max_header_bytes=100_000, max_tensors=1000, max_opcodes=20_000)


def _torch(**options: bool) -> bytes:
    file = io.BytesIO()
    model = torch.nn.Linear(5, 3)
    value = {
        "model": model.state_dict(),
        "epoch": 3,
        "s": torch.eye(2).to_sparse(),
        "h": [1.5, "x"],
    }
    torch.save(value, file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.ones((3, 2)), b=np.arange(4))
    return file.getvalue()


def _tar() -> bytes:
    files = {
        "m.safetensors": save({"a": torch.ones(2, 2)}),
        "m.index.json": json.dumps({"weight_map": {"a": "m.safetensors"}}).encode(),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


REAL: dict[str, Callable[[], bytes]] = {
    "safetensors": lambda: save({"a": torch.ones(3, 2), "b": torch.ones(2)}, {"k": "v"}),
    "zip": _torch,
    "legacy": lambda: _torch(_use_new_zipfile_serialization=False),
    "npz": _npz,
    "tar": _tar,
    "index": lambda: json.dumps({"weight_map": {"a": "m.safetensors"}}).encode(),
    "pickle": lambda: pickle.dumps({"a": [1, 2.5, "x", b"y", None, {3}]}, 4),
}


def survives(data: bytes) -> None:
    for look in (
        lambda file: inspect_file(file, len(data), limits=LIMITS),
        lambda file: manifest_of(file, len(data), LIMITS) if data else None,
    ):
        error: RankpressError | None = None
        try:
            look(io.BytesIO(data))
        except RankpressError as caught:
            error = caught
        assert error is None or (error.status in (413, 422) and error.detail)


@given(st.binary(max_size=300))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_bytes(data: bytes) -> None:
    survives(data)


@pytest.mark.parametrize(
    "head",
    [
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"\x80\x02",
        b"\x80\x04",
        b"{",
        b"\x08\x08",
        b"(",
        b"c",
        b"\x08\x00\x00\x00\x00\x00\x00\x00{",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    ],
)
@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_bytes_after_a_magic(head: bytes, data: st.DataObject) -> None:
    survives(head + data.draw(st.binary(max_size=200)))


@pytest.mark.parametrize("kind", REAL)
@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_flips_and_cuts_of_real_files(kind: str, data: st.DataObject) -> None:
    real = bytearray(REAL[kind]())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(real) - 1))
        match data.draw(st.sampled_from(("flip", "cut", "insert", "delete", "repeat"))):
            case "flip":
                real[at] = data.draw(st.integers(0, 255))
            case "cut":
                del real[max(at, 1) :]
            case "insert":
                real[at:at] = data.draw(st.binary(max_size=8))
            case "delete":
                del real[at : at + data.draw(st.integers(1, 8))]
            case "repeat":
                real[at:at] = real[at : at + 32]
        if not real:
            break
    survives(bytes(real))
