"""A GPU's group of layers, shape by shape: those of one shape are decomposed in one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch

from worker.linalg.equal_shapes import Prepared, prepared
from worker.linalg.spectrum import SMALL_SIDE
from worker.read.matrix_view import MatrixView
from worker.read.plan import PlannedTensor

# Numbers of all Gram matrices of a call, which has vectors and workspace of the same size beside
# them: 1.5 GB in float32.
BATCH_NUMBERS = 1 << 27
PreparedViews = Mapping[MatrixView, Sequence[Prepared | None]]
NOTHING: PreparedViews = MappingProxyType({})


def shape_by_shape(
    names: Sequence[str],
    planned: Mapping[str, PlannedTensor],
    load: Callable[[str], torch.Tensor],
    device: torch.device,
) -> Iterator[tuple[str, PreparedViews]]:
    """Every name once, with what is known of its matrices; nothing of those that are not tried, or
    so small that they are decomposed on the CPU."""
    batches, alone = _batches([planned[name] for name in names])
    loads = [
        partial(_matrices, load, batch, view)
        for batch in batches
        for view in planned[batch[0]].views
    ]
    found = prepared(loads, device)
    for batch in batches:
        by_view = [(view, next(found)) for view in planned[batch[0]].views]
        for i, name in enumerate(batch):
            yield name, {v: p[i * v.count : (i + 1) * v.count] for v, p in by_view}
    for name in alone:
        yield name, NOTHING


def _batches(planned: Sequence[PlannedTensor]) -> tuple[list[list[str]], list[str]]:
    """Names of one shape, dtype and views, as many as one call may have; and the others."""
    alike: dict[tuple[object, ...], list[PlannedTensor]] = defaultdict(list)
    alone = []
    for tensor in planned:
        if tensor.is_candidate and min(v.full_rank for v in tensor.views) > SMALL_SIDE:
            alike[tensor.tensor.dtype, tensor.views].append(tensor)
        else:
            alone.append(tensor.name)
    batches = []
    for tensors in alike.values():
        numbers = max(view.count * view.full_rank**2 for view in tensors[0].views)
        step = max(BATCH_NUMBERS // numbers, 1)
        batches += [[t.name for t in tensors[i : i + step]] for i in range(0, len(tensors), step)]
    return batches, alone


def _matrices(
    load: Callable[[str], torch.Tensor], batch: Sequence[str], view: MatrixView
) -> list[torch.Tensor]:
    return [matrix for name in batch for matrix in view.to_matrices(load(name))]
