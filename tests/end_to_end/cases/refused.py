"""CASES, Checkpoints: what is refused, where, and in which words."""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import io
import json
import os
import struct
import sys
import tarfile
import types
import warnings
import zipfile
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save

from tests.end_to_end.cases.tools import Refused, low, one, pt, st

STATE = {"w.weight": low(96, 64, 2), "w.bias": torch.ones(96)}


def omegaconf() -> dict[str, bytes]:
    """Hyper-parameters as OmegaConf pickles them; the package itself is not needed."""
    module = types.ModuleType("omegaconf.dictconfig")
    config = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
    module.DictConfig = config  # type: ignore[attr-defined]
    modules = {"omegaconf": types.ModuleType("omegaconf"), "omegaconf.dictconfig": module}
    with mock.patch.dict(sys.modules, modules):
        return pt({"state_dict": STATE, "hyper_parameters": config()})


def scripted() -> dict[str, bytes]:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return one(file.getvalue())


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, ("touch /tmp/rankpress-canary",)


def deflated() -> dict[str, bytes]:
    """32 KB that become 32 MB."""
    out = io.BytesIO()
    plain = pt({"w": torch.zeros(8 * 1024**2)})["model.pt"]
    with zipfile.ZipFile(io.BytesIO(plain)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    assert len(out.getvalue()) < 40_000
    return one(out.getvalue())


def flipped() -> bytes:
    data = bytearray(save(STATE))
    data[-3] ^= 1
    return bytes(data)


def digest_of(data: bytes) -> dict[str, str]:
    found = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return {"Repr-Digest": f"sha-256=:{found}:"}


def shards(*, drop: str = "", extra: str = "", weight_map_extra: bool = False) -> dict[str, bytes]:
    """Two shards and their index; the index comes last."""
    files = {
        "model-1.safetensors": save({"a.weight": low(96, 64, 2)}),
        "model-2.safetensors": save({"b.weight": low(96, 64, 3, seed=1)}),
    }
    weight_map = {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}
    if weight_map_extra:
        weight_map["c.weight"] = "model-2.safetensors"
    if drop:
        del files[drop]
    if extra:
        files[extra] = save({"x.weight": low(96, 64, 2)})
    files["model.safetensors.index.json"] = json.dumps(
        {"metadata": {}, "weight_map": weight_map}
    ).encode()
    return files


def tar_of(files: dict[str, bytes]) -> dict[str, bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return one(out.getvalue(), "model.tar")


SEND = "model.state_dict()"
UNSAFE, UNKNOWN, CORRUPT = "unsafe-pickle", "unsupported-format", "corrupt-file"


def at_upload(id: str, files: object, slug: str, *says: str) -> Refused:
    make = files if callable(files) else lambda: files
    return Refused(id=id, files=make, at="upload", slug=slug, says=says)


REFUSED = [
    at_upload(
        "np.float64 beside the tensors",
        lambda: pt({"w": torch.ones(2), "lr": np.float64(1)}),
        UNSAFE, "lr: ", "multiarray.scalar", SEND,
    ),
    at_upload(
        "argparse.Namespace",
        lambda: pt({"model": STATE, "args": argparse.Namespace(a=1)}),
        UNSAFE, "args: argparse.Namespace", SEND,
    ),
    at_upload(
        "OmegaConf", omegaconf, UNSAFE, "hyper_parameters: omegaconf.dictconfig.DictConfig", SEND
    ),
    at_upload(
        "functools.partial in the hyper-parameters",
        lambda: pt({"state_dict": STATE, "hyper_parameters": {"act": functools.partial(int, 3)}}),
        UNSAFE, "hyper_parameters.act: functools.partial", SEND,
    ),
    at_upload(
        "a pickled module",
        lambda: pt(torch.nn.Linear(2, 2)),
        UNSAFE, "whole pickled module", "torch.nn.modules.linear.Linear", f"send {SEND}",
    ),
    at_upload("TorchScript named .pt", scripted, UNKNOWN, "TorchScript", SEND),
    at_upload(
        "a pickle that runs code", lambda: pt({"w": Runs()}), UNSAFE, "w: posix.system", SEND
    ),
    at_upload("a zip packed again with DEFLATE", deflated, UNKNOWN, "compressed", "torch.save"),
    at_upload(
        "ones(1).expand(100000, 100000)",
        lambda: pt({"w": torch.ones(1).expand(100000, 100000)}),
        "too-large-inside", "40000000000 bytes", "expand",
    ),
    at_upload(
        "a safetensors header of 2^40 bytes",
        lambda: one(struct.pack("<Q", 2**40) + b'{"w"'),
        CORRUPT, "1099511627776 bytes", "cut short",
    ),
    at_upload(
        "a file cut short, .pt", lambda: one(pt(STATE)["model.pt"][:-40]), CORRUPT, "cut short"
    ),
    at_upload(
        "a file cut short, safetensors", lambda: one(save(STATE)[:-40]), CORRUPT, "cut short"
    ),
    Refused(
        id="a flipped byte, the SHA-256 sent",
        files=lambda: one(flipped(), "model.safetensors"),
        headers=digest_of(save(STATE)),
        at="upload",
        slug="digest-mismatch",
        says=(hashlib.sha256(flipped()).hexdigest(), "send the file again"),
    ),
    at_upload(
        "an HTML error page",
        lambda: one(b"<!DOCTYPE html><html><body>404</body></html>"),
        UNKNOWN, "HTML", SEND,
    ),
    at_upload("an empty file", lambda: one(b""), UNKNOWN, "empty (0 bytes)", SEND),
    at_upload(
        "a shard missing, in a tar",
        lambda: tar_of(shards(drop="model-2.safetensors")),
        "invalid-file", "model-2.safetensors",
    ),
    at_upload(
        "a tensor of the map missing, in a tar",
        lambda: tar_of(shards(weight_map_extra=True)),
        "invalid-file", "c.weight", "model-2.safetensors",
    ),
    at_upload(
        "a shard that is not in the map, in a tar",
        lambda: tar_of(shards(extra="model-3.safetensors")),
        "invalid-file", "model-3.safetensors",
    ),
    at_upload(
        "a stray file, in a tar",
        lambda: tar_of({**shards(), "notes.txt": b"hello"}),
        UNKNOWN, "notes.txt",
    ),
    Refused(
        id="a shard missing, as several uploads",
        files=lambda: shards(drop="model-2.safetensors"),
        at="job", slug="invalid-file", says=("model-2.safetensors",),
    ),
    Refused(
        id="a shard that is not in the map, as several uploads",
        files=lambda: shards(extra="model-3.safetensors"),
        at="job", slug="invalid-file", says=("model-3.safetensors",),
    ),
    Refused(
        id="a stray file, as several uploads",
        files=lambda: {**shards(), "more.npz": npz()},
        at="submit", slug=UNKNOWN, pointer="/model/3", says=("npz",),
    ),
    Refused(
        id="several sets of weights",
        files=lambda: pt({"model": STATE, "ema": STATE | {"w.bias": torch.zeros(96)}}),
        at="job", slug="ambiguous-checkpoint", pointer="/weights_path",
        says=("'model'", "'ema'", "weights_path"),
    ),
    Refused(
        id="a weights_path that is not there",
        files=lambda: pt({"model": STATE}),
        request={"weights_path": "net"},
        at="job", slug="invalid-request", pointer="/weights_path", says=("'net'", "'model'"),
    ),
    Refused(
        id="safetensors asked for a quantised tensor",
        files=lambda: pt({"w": low(96, 64, 2), "s": torch.eye(4).to_sparse()}),
        request={"output": {"format": "safetensors"}},
        at="job", slug="invalid-request", pointer="/output/format", says=("'s'",),
    ),
    Refused(
        id="a pattern that matches nothing",
        files=lambda: st(STATE),
        request={"layers": [{"match": "*.lm_head", "keep_dense": True}]},
        at="submit", slug="invalid-request", pointer="/layers/0/match", says=("*.lm_head",),
    ),
]  # fmt: skip


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()
