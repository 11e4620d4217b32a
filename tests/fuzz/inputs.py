"""Hostile files by the thousand: arbitrary bytes, structures that nearly are checkpoints, and real
files with bytes flipped, cut out, doubled. The same seed gives the same files."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

Maker = Callable[[random.Random], bytes]
EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist" / "model.safetensors"
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "F4", "XX", "")
MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x80\x04", b"{", b"\x08\x08", b"(", b"c")
OPCODES = (
    b"(.0123]}[)tauesbRocNKJMIXUBhjqr\x85\x86\x87\x88\x89\x8c\x8f\x90\x91\x92\x93\x94\x95Q\x81"
)


def inputs(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` files with the name of the maker of each."""
    source = random.Random(seed)
    real = real_files()
    makers: list[tuple[str, Maker]] = [
        ("bytes", _bytes),
        ("magic", _magic),
        ("header", _header),
        ("opcodes", _opcodes),
        *((f"damaged {name}", _damaged(data)) for name, data in real.items()),
    ]
    for i in range(count):
        name, make = makers[i % len(makers)]
        yield name, make(source)


def real_files() -> dict[str, bytes]:
    """Small ones of every container, and a model that was trained."""
    weight = torch.arange(96 * 40.0).reshape(96, 40) % 7
    state = {"a.weight": weight, "a.bias": torch.ones(96), "t": weight.t(), "n": torch.tensor(3)}
    nested = {"model": state, "epoch": 3, "s": torch.eye(2).to_sparse(), "h": [1.5, "x", None]}
    plain = {k: v.contiguous() for k, v in state.items()}
    return {
        "safetensors": save(plain, {"k": "v"}),
        "zip": _saved(nested),
        "legacy": _saved(nested, _use_new_zipfile_serialization=False),
        "tar": _tar({"a.weight": weight}),
        "npz": _npz(),
        "pickle": pickle.dumps({"a": [1, 2.5, "x", b"y", None, {3}]}, 4),
        "index": json.dumps({"weight_map": {"a": "m.safetensors"}}).encode(),
        "example": EXAMPLE.read_bytes()[: 8 * 1024],
    }


def _saved(value: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.ones((3, 2)), b=np.arange(4))
    return file.getvalue()


def _tar(state: dict[str, torch.Tensor]) -> bytes:
    files = {
        "m.safetensors": save(state),
        "m.index.json": json.dumps({"weight_map": dict.fromkeys(state, "m.safetensors")}).encode(),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _bytes(source: random.Random) -> bytes:
    return source.randbytes(source.randrange(300))


def _magic(source: random.Random) -> bytes:
    return source.choice(MAGICS) + source.randbytes(source.randrange(200))


def _opcodes(source: random.Random) -> bytes:
    """A pickle by its opcodes: most are damaged, some are not."""
    body = bytearray(b"\x80\x02}")
    for _ in range(source.randrange(60)):
        body.append(source.choice(OPCODES))
        if source.random() < 0.3:
            body += source.randbytes(source.randrange(4))
    return bytes(body) + b"."


def _header(source: random.Random) -> bytes:
    """A safetensors header whose parts are each right or wrong, and tensors that fit it or not."""
    at, document = 0, {}
    for i in range(source.randrange(5)):
        shape = [source.choice((0, 1, 2, 8, 64, 2**31, -1)) for _ in range(source.randrange(4))]
        size = source.choice((0, 4, 32, 256, 16384))
        if source.random() < 0.7 and all(0 <= n < 100 for n in shape):
            size = 4 * int(np.prod(shape, dtype=np.int64))
            code = "F32"
        else:
            code = source.choice(DTYPES)
        document[f"layer.{i}.weight"] = {
            "dtype": code,
            "shape": shape,
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(document).encode()
    data = np.frombuffer(source.randbytes(min(at, 2**17)), np.uint8)
    length = len(text) if source.random() < 0.9 else source.choice((0, 2**40, 2**64 - 1))
    return struct.pack("<Q", length) + text + data.tobytes()


def _damaged(real: bytes) -> Maker:
    def make(source: random.Random) -> bytes:
        data = bytearray(real)
        for _ in range(source.randrange(1, 5)):
            if not data:
                break
            # Half of the damage near the ends, where the headers are.
            near = min(len(data), 600)
            at = source.choice(
                (source.randrange(len(data)), source.randrange(near), -1 - source.randrange(near))
            )
            at %= len(data)
            match source.randrange(6):
                case 0 | 1:
                    data[at] ^= 1 << source.randrange(8)
                case 2:
                    data[at] = source.randrange(256)
                case 3:
                    del data[at : at + source.randrange(1, 32)]
                case 4:
                    data[at:at] = source.randbytes(source.randrange(8))
                case 5:
                    del data[at:]
        return bytes(data)

    return make
