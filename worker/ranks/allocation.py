"""The ranks of a whole model under a budget: what each layer costs, and what the rest costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rankpress.errors import InvalidRequest
from rankpress.names import Aware, Kind, Reason
from rankpress.schemas.request import Budget
from worker.ranks.budget import Allocation, BudgetLayer, BudgetTooSmall, allocate
from worker.ranks.rules import Spectrum, apply_multiple, rank_for
from worker.read.matrix_view import MatrixView
from worker.read.plan import PlannedTensor
from worker.tensors import dtype_of


class Unit(StrEnum):
    """What a budget counts."""

    PARAMETERS = "parameters"
    BYTES = "bytes"
    FLOPS = "flops"  # multiply-adds of one sample in the matrices


@dataclass(frozen=True, kw_only=True)
class WideSpectrum:
    """A layer whose rank is to be chosen. `singular_values` of each matrix of its `view`."""

    planned: PlannedTensor
    view: MatrixView
    singular_values: tuple[Spectrum, ...]


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """`ranks` by layer, None for one that stays dense. Costs are of the whole model."""

    ranks: dict[str, int | None]
    cost: int
    whole: int
    error: float


class Ranker:
    """Chooses ranks under any budget, from the spectra of all layers.

    Costs are of every tensor that is stored once: tied names and optimiser state do not count. A
    layer that gains a bias has its cost reserved. With `aware` two_sided the energies are in units
    of the model's squared output; else each layer's are shares of its own.
    """

    def __init__(
        self,
        tensors: Sequence[PlannedTensor],
        spectra: Sequence[WideSpectrum],
        *,
        aware: Aware,
        rank_multiple: int,
        new_biases: Mapping[str, int] | None = None,
    ) -> None:
        self._tensors = [t for t in tensors if t.reason not in _UNCOUNTED]
        self._multiple = rank_multiple
        self._biases = dict(new_biases or {})
        self._fixed = {s.planned.name: fixed_rank(s) for s in spectra if is_fixed(s.planned)}
        self._free = [s for s in spectra if not is_fixed(s.planned)]
        self._spectra = {s.planned.name: s for s in spectra}
        self._aware = aware

    def whole(self, unit: Unit) -> int:
        """What the model costs as it is."""
        return sum(dense_cost(t, unit) for t in self._tensors)

    def least(self, unit: Unit) -> int:
        """What it costs with every free layer at its cheapest."""
        rest = self._rest(unit)
        layers = [self._layer(s, unit) for s in self._free]
        return rest + sum(
            min(layer.dense_cost, layer.cost_per_rank * self._lowest(layer)) for layer in layers
        )

    def within(self, limit: int, unit: Unit) -> Ranked:
        """The ranks of least error whose cost is at most `limit`. Raises BudgetTooSmall."""
        rest = self._rest(unit)
        layers = [self._layer(s, unit) for s in self._free]
        try:
            found: Allocation = allocate(layers, limit - rest, rank_multiple=self._multiple)
        except BudgetTooSmall as error:
            raise BudgetTooSmall(limit, error.least + rest) from error
        return Ranked(
            ranks=self._fixed | found.ranks,
            cost=found.cost + rest,
            whole=self.whole(unit),
            error=found.error,
        )

    def for_budget(self, budget: Budget, pointer: str) -> tuple[Ranked, Unit]:
        """Raises InvalidRequest when no ranks keep to it, or its unit is not known here."""
        unit, share = unit_of(budget)
        self._check_unit(unit, f"{pointer}/{unit}")
        limit = math.floor(share * self.whole(unit) * (1 + 1e-12))
        try:
            return self.within(limit, unit), unit
        except BudgetTooSmall as error:
            whole = self.whole(unit)
            least = math.ceil(1e4 * error.least / whole) / 1e4
            raise InvalidRequest.at(
                f"{pointer}/{unit}",
                f"{share:g} is {limit} of the model's {whole} {unit}; what is not factorised and "
                f"the lowest ranks of the rest already take {error.least}: send {least:g} or more",
            ) from error

    def _check_unit(self, unit: Unit, pointer: str) -> None:
        convolutions = [t.name for t in self._tensors if t.views and len(t.tensor.shape) != 2]
        if unit is Unit.FLOPS and convolutions:
            raise InvalidRequest.at(
                pointer,
                f"{convolutions[0]!r} is no plain matrix: how often it is applied to a sample is "
                "not known; send a budget of parameters or bytes",
            )

    def _rest(self, unit: Unit) -> int:
        """What is spent whatever the free layers get."""
        free = {s.planned.name for s in self._free}
        cost = 0
        for tensor in self._tensors:
            if tensor.name in free:
                continue
            rank = self._fixed.get(tensor.name)
            if rank is None:
                cost += dense_cost(tensor, unit)
            else:
                view = self._spectra[tensor.name].view
                cost += rank * rank_cost(tensor, view, unit)
        if unit is Unit.FLOPS:
            return cost
        for name, length in self._biases.items():
            if name in self._spectra:
                cost += length * (
                    _itemsize(self._spectra[name].planned) if unit is Unit.BYTES else 1
                )
        return cost

    def _layer(self, spectrum: WideSpectrum, unit: Unit) -> BudgetLayer:
        s = joint(spectrum.singular_values)
        energy = float((s * s).sum())
        normalised = self._aware is not Aware.TWO_SIDED
        return BudgetLayer(
            name=spectrum.planned.name,
            singular_values=s,
            weight=1 / energy if normalised and energy > 0 else 1.0,
            cost_per_rank=rank_cost(spectrum.planned, spectrum.view, unit),
            dense_cost=dense_cost(spectrum.planned, unit),
        )

    def _lowest(self, layer: BudgetLayer) -> int:
        return min(self._multiple, len(layer.singular_values))


_UNCOUNTED = (Reason.TIED, Reason.OPTIMIZER_STATE)


def joint(spectra: Sequence[Spectrum]) -> Spectrum:
    """One spectrum for a stack of matrices that are cut at the same rank: its squares add up."""
    if len(spectra) == 1:
        return spectra[0]
    largest = max(float(s[0]) for s in spectra) or 1.0
    squares = np.sum([(s / largest) ** 2 for s in spectra], axis=0)
    summed: Spectrum = largest * np.sqrt(squares)
    return summed


def is_fixed(planned: PlannedTensor) -> bool:
    """Whether a `layers` entry chose the layer's rank: it then takes no part in the allocation."""
    return planned.rank is not None or (planned.rule is not None and not planned.rule.is_joint)


def fixed_rank(spectrum: WideSpectrum) -> int | None:
    """The rank that a `layers` entry chose; None when its factors would be no smaller."""
    planned, view = spectrum.planned, spectrum.view
    if planned.rank is not None:
        rank = min(planned.rank, view.full_rank)
    else:
        assert planned.rule is not None
        precision = np.float64 if planned.tensor.dtype == "float64" else np.float32
        ranks = [
            rank_for(
                planned.rule,
                s,
                view.m,
                view.n,
                planned.thresholds[0],
                eps=float(np.finfo(precision).eps),
            )
            for s in spectrum.singular_values
            if s[0] > 0
        ]
        rank = apply_multiple(max(ranks), planned.rank_multiple, view.full_rank)
    return rank if rank <= planned.highest_rank(view) else None


def unit_of(budget: Budget) -> tuple[Unit, float]:
    """The unit that a budget counts, and its share of the whole."""
    for unit in Unit:
        share = getattr(budget, unit)
        if share is not None:
            return unit, float(share)
    raise ValueError("a budget names one unit")


def dense_cost(planned: PlannedTensor, unit: Unit) -> int:
    """What a tensor costs as it is."""
    match unit:
        case Unit.BYTES:
            return planned.tensor.nbytes
        case Unit.FLOPS:
            matrix = planned.kind is Kind.MATRIX and bool(planned.views)
            return math.prod(planned.tensor.shape) if matrix else 0
    return math.prod(planned.tensor.shape)


def rank_cost(planned: PlannedTensor, view: MatrixView, unit: Unit) -> int:
    """What one rank of its factors costs."""
    numbers = view.count * (view.m + view.n)
    return numbers * (_itemsize(planned) if unit is Unit.BYTES else 1)


def _itemsize(planned: PlannedTensor) -> int:
    return dtype_of(planned.tensor.dtype).itemsize
