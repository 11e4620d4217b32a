"""A layer decomposed once and kept at the largest useful rank, while its rank is not chosen yet.

Balanced factors hold one rank-one term for each singular value, in their order: the factors of a
lower rank are the first terms, so that one decomposition serves every budget.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rankpress.names import Reason
from rankpress.schemas.report import LayerReport
from worker.aware.weighting import Weighting
from worker.child.messages import WideLayer
from worker.factorise.factors import CastOverflow, store
from worker.factorise.layer_report import unchanged
from worker.factorise.together import NOTHING, PreparedViews
from worker.factorise.viewed import ViewedTensor
from worker.linalg.kept import Forms
from worker.linalg.scaling import NonFinite
from worker.linalg.spectrum import NumericalFailure
from worker.ranks.rules import Spectrum, break_even_rank
from worker.read.plan import PlannedTensor


@dataclass(frozen=True, kw_only=True)
class WideResult:
    """`layer` and its factors, or the `report` of a tensor that stays as it is.

    `right` and `left` as they are stored; `singular_values` of the view that was taken, float64,
    descending, one array a matrix.
    """

    report: LayerReport | None = None
    layer: WideLayer | None = None
    right: torch.Tensor | None = None
    left: torch.Tensor | None = None
    singular_values: tuple[Spectrum, ...] = ()


def factorise_wide(
    tensor: torch.Tensor,
    planned: PlannedTensor,
    *,
    device: torch.device | str = "cpu",
    weighting: Weighting | None = None,
    forms: Forms | None = None,
    prepared: PreparedViews = NOTHING,
) -> WideResult:
    """Factors up to the highest useful rank, beyond which the layer would stay dense."""
    started = time.perf_counter()

    def stays(reason: Reason, spectra: tuple[Spectrum, ...] = ()) -> WideResult:
        seconds = time.perf_counter() - started
        report = unchanged(planned, planned.thresholds[0], reason, seconds=seconds)
        return WideResult(report=report, singular_values=spectra)

    views = [v for v in planned.views if break_even_rank(v.m, v.n) > 0]
    try:
        tried = [
            ViewedTensor(tensor, view, torch.device(device), weighting, forms, prepared.get(view))
            for view in (views if weighting is None else planned.views[:1])
        ]
    except NonFinite:
        return stays(Reason.NON_FINITE)
    except NumericalFailure:
        return stays(Reason.NUMERICAL_FAILURE)
    viewed = _better(tried)
    # A report speaks of the first view, unless the layer has factors in another.
    spectra = viewed.singular_values if viewed.view == planned.views[0] else ()
    if viewed.is_zero:
        return stays(Reason.ZERO, spectra)
    rank = min(planned.highest_rank(viewed.view), viewed.view.full_rank)
    if rank == 0:
        return stays(planned.too_high(viewed.view, 1) or Reason.ABOVE_BREAK_EVEN, spectra)
    try:
        pairs = viewed.factors((rank,) * viewed.view.count)
        factors = store(viewed.matrices, pairs, viewed.view, viewed.dtype)
    except NumericalFailure:
        return stays(Reason.NUMERICAL_FAILURE, spectra)
    except CastOverflow:
        return stays(Reason.CAST_OVERFLOW, spectra)
    layer = WideLayer(
        name=planned.name,
        kind=viewed.view.kind,
        rank=factors.rank,
        driver=viewed.driver,
        seconds=time.perf_counter() - started,
    )
    return WideResult(
        layer=layer,
        right=factors.right,
        left=factors.left,
        singular_values=viewed.singular_values,
    )


def _better(tried: Sequence[ViewedTensor]) -> ViewedTensor:
    """The view that loses least energy when half of the tensor's numbers are kept."""

    def lost(viewed: ViewedTensor) -> float:
        view = viewed.view
        half = view.count * view.m * view.n // 2
        rank = max(half // (view.count * (view.m + view.n)), 1)
        return viewed.tail_energy((min(rank, view.full_rank),) * view.count)

    return min(tried, key=lost)
