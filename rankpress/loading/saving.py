"""Writing a dense model, and samples, for the way to the service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def save_dense(model: nn.Module | Mapping[str, Tensor], path: Path) -> None:
    """As safetensors: each tensor once. Names tied to it are left out, as `save_pretrained` does;
    a view into a larger storage is written as the view alone. Raises `TypeError` for anything but
    an nn.Module or a mapping of names to tensors."""
    if isinstance(model, nn.Module):
        tensors = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    elif isinstance(model, Mapping) and all(isinstance(v, Tensor) for v in model.values()):
        tensors = dict(model)
    else:
        raise TypeError(
            f"cannot compress a {type(model).__name__}: pass a path, an nn.Module, or a "
            "state_dict (names to tensors)"
        )
    seen: set[tuple[object, ...]] = set()
    storages: set[int] = set()
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        place = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if storage and tensor.numel() and place in seen:
            continue
        seen.add(place)
        shared = storage in storages or tensor.untyped_storage().nbytes() != tensor.nbytes
        storages.add(storage)
        kept[name] = tensor.contiguous().clone() if shared else tensor.contiguous()
    save_file(kept, path, metadata={"format": "pt"})


def save_samples(samples: Mapping[str, Any], path: Path) -> None:
    """The arrays of a validation file, as safetensors. Raises `TypeError` for what is no array."""
    tensors = {}
    for name, values in samples.items():
        try:
            tensors[str(name)] = torch.as_tensor(values).detach().cpu().contiguous().clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"validation[{name!r}] is no tensor and no array of numbers") from error
    save_file(tensors, path)
