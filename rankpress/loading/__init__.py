"""Loading compressed files into torch models: the only torch in rankpress.

>>> model = load_compressed(Net(), "net-compressed.safetensors")
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from rankpress.loading.apply import apply_plan
from rankpress.loading.container import open_compressed
from rankpress.loading.errors import DoesNotFit, LoadError, NotCompressed, UnreadableFile
from rankpress.loading.layers import (
    FactorisedConv,
    FactorisedConv1D,
    FactorisedEmbedding,
    FactorisedLinear,
    LowRank,
)
from rankpress.loading.plan import make_plan
from rankpress.loading.saving import save_dense

M = TypeVar("M", bound=nn.Module)

__all__ = [
    "DoesNotFit",
    "FactorisedConv",
    "FactorisedConv1D",
    "FactorisedEmbedding",
    "FactorisedLinear",
    "LoadError",
    "LowRank",
    "NotCompressed",
    "UnreadableFile",
    "load_compressed",
    "read_tensors",
    "save_dense",
]


def load_compressed(model: M, path: str | os.PathLike[str], *, strict: bool = True) -> M:
    """Swaps the factorised layers of `model` in place by the file's manifest, loads every tensor,
    and returns the model.

    `path` is a compressed file (safetensors, `.pt` read without code, a tar of shards) or a folder
    of one.
    nn.Linear, nn.Conv1d/2d/3d, nn.Embedding and transformers' Conv1D become two smaller layers;
    any other parameter is parametrised and multiplied back at each use. Dtype and device of the
    model's parameters are kept; tied weights stay tied. Create optimisers afterwards.

    With `strict`, names that are in only one of file and model are an error. Raises `DoesNotFit`
    (all names at once), `NotCompressed`, `UnreadableFile`, `LoadError`, `FileNotFoundError`; the
    model is then as it was.
    """
    with open_compressed(Path(path)) as file:
        if file.is_graph:
            raise LoadError(
                f"{Path(path).name} is an ONNX model, which ONNX Runtime runs as it is; for a file "
                "that a module loads, compress its state_dict"
            )
        apply_plan(model, file, make_plan(model, file, strict=strict))
    return model


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a compressed file under its own keys. Raises as `load_compressed` does."""
    with open_compressed(Path(path)) as file:
        return {key: file.load(key) for key in file.shapes}
