"""Factors of a chosen rank as slices of the wide ones, and what they turn out to be."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch

from rankpress.names import Kind, Reason
from rankpress.schemas.report import LayerReport
from worker.child.messages import WideLayer
from worker.factorise.factors import CastOverflow, Factors, relative_error
from worker.factorise.layer_report import Cut, measured, unchanged
from worker.ranks.rules import Spectrum
from worker.read.matrix_view import MatrixView
from worker.read.plan import PlannedTensor
from worker.write.parts import LEFT, RIGHT, SPECTRUM, Parts


def view_named(planned: PlannedTensor, kind: Kind) -> MatrixView:
    return next(view for view in planned.views if view.kind is kind)


def spectra_of(parts: Parts, name: str) -> tuple[Spectrum, ...]:
    """The singular values of a layer's matrices, float64, descending."""
    return tuple(np.ascontiguousarray(parts.tensor(name, SPECTRUM).numpy()))


class SlicedParts(Parts):
    """The parts of a job as they are at one result: wide factors appear cut to their rank."""

    def __init__(self, parts: Parts, ranks: Mapping[str, tuple[Kind, int]]) -> None:
        self._parts = parts
        self._ranks = ranks

    def tensor(self, layer: str, which: str) -> torch.Tensor:
        found = self._parts.tensor(layer, which)
        if layer not in self._ranks or which not in (LEFT, RIGHT):
            return found
        kind, rank = self._ranks[layer]
        # A copy, since what is written is a tensor's whole storage.
        return found.narrow(axis_of_rank(kind, which), 0, rank).clone(
            memory_format=torch.contiguous_format
        )

    def shape(self, layer: str, which: str) -> tuple[int, ...]:
        shape = list(self._parts.shape(layer, which))
        if layer in self._ranks and which in (LEFT, RIGHT):
            kind, rank = self._ranks[layer]
            shape[axis_of_rank(kind, which)] = rank
        return tuple(shape)

    def has(self, layer: str, which: str) -> bool:
        return self._parts.has(layer, which)


def axis_of_rank(kind: Kind, which: str) -> int:
    """Which axis of a stored factor the rank is (MatrixView.factor_shapes)."""
    stacked = 1 if kind is Kind.EXPERTS else 0
    return stacked + (1 if which == LEFT else 0)


def described(
    planned: PlannedTensor,
    wide: WideLayer,
    parts: Parts,
    rank: int | None,
    threshold: float | None,
    tensor: torch.Tensor | None,
) -> LayerReport:
    """The report of a layer at the rank chosen; None keeps it dense.

    The error is measured on the slices when `tensor`, the layer's values, is given. `parts` holds
    the wide factors.
    """
    started = time.perf_counter()
    view = view_named(planned, wide.kind)
    if rank is None:
        report = unchanged(planned, threshold, Reason.ALLOCATED_DENSE, seconds=wide.seconds)
        return report.model_copy(update={"kind": wide.kind, "driver": wide.driver})
    sliced = SlicedParts(parts, {wide.name: (wide.kind, rank)})
    right, left = sliced.tensor(wide.name, RIGHT), sliced.tensor(wide.name, LEFT)
    error = None
    try:
        if tensor is not None:
            error = relative_error(view.to_matrices(tensor), right, left, view)
    except CastOverflow:
        report = unchanged(planned, threshold, Reason.CAST_OVERFLOW, seconds=wide.seconds)
        return report.model_copy(update={"kind": wide.kind, "driver": wide.driver})
    report = measured(
        planned,
        threshold,
        Cut(
            view=view,
            ranks=(rank,) * view.count,
            singular_values=spectra_of(parts, wide.name),
            driver=wide.driver,
        ),
        Factors(right=right, left=left, rank=rank, relative_error=error or 0.0),
        reason=None,
        seconds=wide.seconds + time.perf_counter() - started,
    )
    return report.model_copy(update={"relative_error": error})
