"""The lines of public bug reports about checkpoints, each with its outcome at the upload."""

from __future__ import annotations

import argparse
import functools
import gzip
import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from rankpress.errors import (
    CorruptFile,
    PayloadTooLarge,
    RankpressError,
    TooLargeInside,
    UnsafePickle,
    UnsupportedFormat,
)
from rankpress.formats import Limits, inspect_file
from rankpress.names import FileFormat


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def inspect(data: bytes, **limits: int) -> Any:
    return inspect_file(io.BytesIO(data), len(data), limits=Limits(**limits))


def scripted() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


def deflated(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def state_dict() -> dict[str, torch.Tensor]:
    return dict(torch.nn.Linear(6, 4).state_dict())


@dataclass(frozen=True)
class Refused:
    id: str
    data: Callable[[], bytes]
    error: type[RankpressError]
    says: tuple[str, ...]


REFUSED = [
    Refused(
        "numpy scalar among the hyper-parameters",
        lambda: saved({"w": torch.ones(2), "lr": np.float64(1)}),
        UnsafePickle,
        ("lr: ", "multiarray.scalar", "model.state_dict()"),
    ),
    Refused(
        "argparse.Namespace",
        lambda: saved({"model": state_dict(), "args": argparse.Namespace(a=1)}),
        UnsafePickle,
        ("args: argparse.Namespace", "model.state_dict()"),
    ),
    Refused(
        "functools.partial deep inside",
        lambda: saved({"model": state_dict(), "hp": {"act": [functools.partial(int, 3)]}}),
        UnsafePickle,
        ("hp.act[0]: functools.partial", "safetensors"),
    ),
    Refused(
        "a pickled module",
        lambda: saved(torch.nn.Linear(2, 2)),
        UnsafePickle,
        ("whole pickled module", "torch.nn.modules.linear.Linear", "send model.state_dict()"),
    ),
    Refused("TorchScript renamed", scripted, UnsupportedFormat, ("TorchScript", "state_dict()")),
    Refused(
        "re-packed with DEFLATE",
        lambda: deflated(saved({"w": torch.zeros(1000, 1000)})),
        UnsupportedFormat,
        ("compressed", "as torch.save wrote it"),
    ),
    Refused(
        "expanded tensor",
        lambda: saved({"w": torch.ones(1).expand(100000, 100000)}),
        TooLargeInside,
        ("40000000000 bytes", "expand"),
    ),
    Refused(
        "many expanded tensors, each of them small",
        lambda: saved({str(i): torch.ones(1).expand(1000, 1000 + i) for i in range(50)}),
        TooLargeInside,
        ("expand",),
    ),
    Refused(
        "header length of 2^40",
        lambda: struct.pack("<Q", 2**40) + b'{"w"',
        CorruptFile,
        ("1099511627776 bytes", "cut short"),
    ),
    Refused("empty file", lambda: b"", UnsupportedFormat, ("empty (0 bytes)", "state_dict()")),
    Refused(
        "HTML error page",
        lambda: b"<!DOCTYPE html><html>404</html>",
        UnsupportedFormat,
        ("HTML", "state_dict()"),
    ),
    Refused("GGUF", lambda: b"GGUF\x03" + bytes(50), UnsupportedFormat, ("GGUF",)),
    Refused("HDF5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(50), UnsupportedFormat, ("HDF5",)),
    Refused("gzip", lambda: gzip.compress(save(state_dict())), UnsupportedFormat, ("gzip",)),
    Refused(
        "Git LFS pointer",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        UnsupportedFormat,
        ("Git LFS pointer",),
    ),
    Refused("JSON", lambda: b'{"a": 1}', UnsupportedFormat, ("JSON", "weight_map")),
    Refused("plain pickle", lambda: pickle.dumps({"a": 1}), UnsupportedFormat, ("plain pickle",)),
    Refused(
        "plain pickle of numpy",
        lambda: pickle.dumps({"a": np.ones(3)}),
        UnsafePickle,
        ("plain pickle", "a: numpy"),
    ),
    Refused("noise", lambda: b"\x01\x02" * 99, UnsupportedFormat, ("begin with '\\x01",)),
    Refused(
        "one tensor", lambda: saved(torch.ones(2)), UnsupportedFormat, ("one tensor", "mapping")
    ),
    Refused(
        "no tensors", lambda: saved({"epoch": 3}), UnsupportedFormat, ("no tensors", "'epoch'")
    ),
    Refused("cut zip", lambda: saved(state_dict())[:-40], CorruptFile, ("cut short",)),
    Refused(
        "cut legacy",
        lambda: saved(state_dict(), _use_new_zipfile_serialization=False)[:-4],
        CorruptFile,
        ("cut short",),
    ),
    Refused("cut safetensors", lambda: save(state_dict())[:-4], CorruptFile, ("cut short",)),
    Refused("longer safetensors", lambda: save(state_dict()) + b"!", CorruptFile, ("after its",)),
    Refused(
        "object array in an npz",
        lambda: npz(a=np.array([{}, 1], dtype=object)),
        UnsafePickle,
        ("'a'", "pickled Python objects"),
    ),
    Refused(
        "an npz that unpacks to too much",
        lambda: npz_bomb(),
        TooLargeInside,
        ("unpack",),
    ),
]


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npz_bomb() -> bytes:
    """A directory that claims 8 GB; the bytes behind it are not even read."""
    data = bytearray(npz(a=np.zeros(4)))
    at = data.rfind(b"PK\x01\x02")
    struct.pack_into("<L", data, at + 24, 2**32 - 2)
    return bytes(data)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_is_refused_says_what_was_found(case: Refused) -> None:
    with pytest.raises(RankpressError) as caught:
        inspect(case.data())
    assert type(caught.value) is case.error
    for text in case.says:
        assert text in caught.value.detail
    assert caught.value.status in (413, 422)


ACCEPTED: dict[str, tuple[Callable[[], bytes], FileFormat]] = {
    "safetensors, whatever its name": (lambda: save(state_dict()), FileFormat.SAFETENSORS),
    "zip": (lambda: saved(state_dict()), FileFormat.TORCH),
    "protocol 4": (lambda: saved(state_dict(), pickle_protocol=4), FileFormat.TORCH),
    "protocol 5": (lambda: saved(state_dict(), pickle_protocol=5), FileFormat.TORCH),
    "legacy": (
        lambda: saved(state_dict(), _use_new_zipfile_serialization=False),
        FileFormat.TORCH_LEGACY,
    ),
    "parameters": (
        lambda: saved(dict(torch.nn.Linear(6, 4).named_parameters())),
        FileFormat.TORCH,
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_taken_tells_its_tensors(name: str) -> None:
    make, kind = ACCEPTED[name]
    facts = inspect(make())
    assert facts.format is kind
    assert {t.name: (t.dtype, t.shape) for t in facts.tensors} == {
        "weight": ("float32", (4, 6)),
        "bias": ("float32", (4,)),
    }


def test_npz_tells_its_arrays() -> None:
    facts = inspect(npz(a=np.ones((3, 2), np.float16), b=np.array(1, np.int64)))
    assert facts.format is FileFormat.NPZ
    assert [(t.name, t.dtype, t.shape) for t in facts.tensors] == [
        ("a", "float16", (3, 2)),
        ("b", "int64", ()),
    ]


def test_several_candidates_are_no_fault_of_the_upload() -> None:
    facts = inspect(saved({"model": state_dict(), "ema": state_dict(), "epoch": 1}))
    assert facts.tensors is None
    assert facts.candidates == ("model", "ema")


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_tensors": 1}, "1"),
        ({"max_header_bytes": 8}, "8 bytes"),
    ],
)
@pytest.mark.parametrize("make", [lambda: save(state_dict()), lambda: saved(state_dict())])
def test_over_a_limit_names_the_limit(
    make: Callable[[], bytes], limits: dict[str, int], says: str
) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        inspect(make(), **limits)
    assert says in caught.value.detail


def test_an_honest_broadcast_is_taken() -> None:
    assert inspect(saved({"mask": torch.ones(1).expand(64, 64), **state_dict()})).tensors
