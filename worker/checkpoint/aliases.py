"""Tied tensors of a format that cannot say so: equal bytes under two names."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from worker.tensors import StoredTensor

_SAMPLE = 4096


def mark_equal(
    tensors: Sequence[StoredTensor], octets: Callable[[str], torch.Tensor]
) -> tuple[StoredTensor, ...]:
    """Sets `alias_of` on the second and later matrices of the same bytes. Only tensors of at least
    two dimensions and any bit set count: equal biases, norms and zeros are most often just still
    at their first value.

    Whole tensors are read only when dtype, shape and the bytes at both ends and in the middle are
    equal, so a model without ties costs three pages a tensor.
    """
    by_sample: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for tensor in tensors:
        if len(tensor.shape) >= 2 and tensor.nbytes:
            data = octets(tensor.name)
            sample = _sample(data)
            if any(sample) or data.any():
                by_sample[tensor.dtype, tensor.shape, sample].append(tensor.name)
    first_of: dict[str, str] = {}
    for names in by_sample.values():
        if len(names) > 1:
            seen: dict[bytes, str] = {}
            for name in names:
                first = seen.setdefault(_digest(octets(name)), name)
                if first != name:
                    first_of[name] = first
    return tuple(replace(t, alias_of=first_of.get(t.name, t.alias_of)) for t in tensors)


def _sample(octets: torch.Tensor) -> bytes:
    middle = max(0, len(octets) // 2 - _SAMPLE // 2)
    parts = (octets[:_SAMPLE], octets[middle : middle + _SAMPLE], octets[-_SAMPLE:])
    return b"".join(part.numpy().tobytes() for part in parts)


def _digest(octets: torch.Tensor) -> bytes:
    return hashlib.blake2b(octets.numpy().data, digest_size=32).digest()
