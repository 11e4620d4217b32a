"""`rankpress.collect_statistics`: what activation-aware factorisation needs, made by the caller.

The data stays with the caller: the file holds means and second moments of each layer's inputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from rankpress.loading.gathering import NoStatistics, first_tensor, gather
from rankpress.loading.watching import is_watched
from rankpress.names import Sensitivity
from rankpress.schemas.statistics import METADATA_KEY, StatisticsInfo

PADDING_MASK = "attention_mask"


def collect_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    path: str | os.PathLike[str],
    *,
    two_sided: bool = False,
    sensitivity: Sensitivity | str = Sensitivity.OUTPUT,
    layers: Sequence[str] = ("*",),
    output: Callable[[Any], torch.Tensor] = first_tensor,
    projections: int = 1,
    seed: int = 0,
) -> Path:
    """Runs the model over `batches` and writes the statistics of its layers to `path`.

    A batch is a tensor, a tuple of positional arguments, or a mapping of keyword arguments; where
    that has an `attention_mask` [B, T], padding is left out. Linear layers, ungrouped 1-D and 2-D
    convolutions and embeddings are watched, as far as a glob of `layers` matches their weight's
    name. `two_sided` adds how strongly the model's output depends on each layer's: by one backward
    pass for each output where a sample has at most 64, else by `projections` random ones; `output`
    picks the tensor that counts (say the normalised embedding). `sensitivity` "softmax" is for
    logits of classes: what counts is then the softmax of `output`'s last axis, which keeps more of
    a classifier's accuracy at the same size. Some hundred samples are enough, for the softmax some
    thousand.

    Memory: 8 N^2 bytes for each layer of N inputs (and 8 M^2, two-sided), so is the file's size.
    The model is left as it was. Raises NoStatistics, a ValueError, and ValueError for a
    `sensitivity` that is none, or that is given without `two_sided`.
    """
    sensitivity = Sensitivity(sensitivity)
    if sensitivity is not Sensitivity.OUTPUT and not two_sided:
        raise ValueError("sensitivity: goes with two_sided=True; leave it out")
    found = {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if is_watched(module)
    }
    watched = {
        key: module for key, module in found.items() if any(fnmatchcase(key, g) for g in layers)
    }
    if not watched:
        raise NoStatistics("the model has no linear layer, convolution or embedding of these names")

    def run(batch: Any) -> torch.Tensor:
        if isinstance(batch, Mapping):
            return output(model(**batch))
        return output(model(*batch) if isinstance(batch, tuple | list) else model(batch))

    tensors, info = gather(
        model,
        batches,
        watched,
        run,
        two_sided=two_sided,
        sensitivity=sensitivity,
        projections=projections,
        seed=seed,
        mask_of=padding_mask,
    )
    return write_statistics(Path(path), tensors, info)


def write_statistics(path: Path, tensors: Mapping[str, torch.Tensor], info: StatisticsInfo) -> Path:
    """The file that the service takes as the upload `statistics`."""
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(contiguous, path, {METADATA_KEY: info.model_dump_json()})
    return path


def padding_mask(batch: Any) -> torch.Tensor | None:
    """What the batch says of its padding: [B, T], true where there is a token; None: nothing."""
    found = batch.get(PADDING_MASK) if isinstance(batch, Mapping) else None
    if not isinstance(found, torch.Tensor) or found.dim() != 2:
        return None
    return found.bool()
