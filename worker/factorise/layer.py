"""One tensor from its values to its factors: decompose once, then a rank for each threshold.

Whatever goes wrong with a layer becomes a reason in its report: the tensor is then kept as it is,
and the job goes on. Nothing but its factors or itself ever takes a tensor's place.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from rankpress.names import Action, Reason
from rankpress.schemas.report import LayerReport
from worker.aware.weighting import Weighting
from worker.factorise.factors import CastOverflow, Factors, store
from worker.factorise.layer_report import measured, unchanged
from worker.factorise.together import NOTHING, PreparedViews
from worker.factorise.viewed import Choice, ViewedTensor, chosen
from worker.linalg.kept import Forms
from worker.linalg.scaling import NonFinite
from worker.linalg.spectrum import NumericalFailure
from worker.ranks.rules import Spectrum
from worker.read.plan import PlannedTensor


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """What became of one tensor at one threshold.

    `right` and `left` are the stored factors, contiguous, on the CPU, in the tensor's dtype; both
    None when the tensor stays as it is. `singular_values` are those of the view that the rule
    reads, float64, descending, one array a matrix (an expert); empty when there are none.
    """

    report: LayerReport
    right: torch.Tensor | None = None
    left: torch.Tensor | None = None
    singular_values: tuple[Spectrum, ...] = ()


def factorise_layer(
    tensor: torch.Tensor,
    planned: PlannedTensor,
    *,
    device: torch.device | str = "cpu",
    weighting: Weighting | None = None,
) -> LayerResult:
    """The result for the plan's only threshold. Raises ValueError when it has several."""
    (result,) = factorise_layer_many(tensor, planned, device=device, weighting=weighting)
    return result


def factorise_layer_many(
    tensor: torch.Tensor,
    planned: PlannedTensor,
    *,
    device: torch.device | str = "cpu",
    weighting: Weighting | None = None,
    forms: Forms | None = None,
    prepared: PreparedViews = NOTHING,
) -> tuple[LayerResult, ...]:
    """One result for each of the plan's thresholds, from one decomposition.

    With a `weighting` the rules read the spectrum of the weighted matrix, of the first view alone:
    the second moments of the others are other ones.

    Raises ValueError when the tensor is not the one planned, or the plan's rule chooses no rank
    of one layer (budget, auto) and no rank is fixed.
    """
    if tuple(tensor.shape) != planned.tensor.shape:
        raise ValueError(f"shape {tuple(tensor.shape)}, planned {planned.tensor.shape}")
    if planned.reason is not None:
        return tuple(
            LayerResult(report=unchanged(planned, t, planned.reason)) for t in planned.thresholds
        )
    started = time.perf_counter()
    try:
        views = [
            ViewedTensor(tensor, view, torch.device(device), weighting, forms, prepared.get(view))
            for view in (planned.views if weighting is None else planned.views[:1])
        ]
    except (NonFinite, NumericalFailure) as error:
        seconds = time.perf_counter() - started
        reason = Reason.NON_FINITE if isinstance(error, NonFinite) else Reason.NUMERICAL_FAILURE
        return tuple(
            LayerResult(report=unchanged(planned, t, reason, seconds=seconds))
            for t in planned.thresholds
        )
    results = []
    for threshold in planned.thresholds:
        results.append(_at_threshold(views, planned, threshold, started))
        started = time.perf_counter()  # the decomposition's time counts once, with the first
    return tuple(results)


def _at_threshold(
    views: list[ViewedTensor], planned: PlannedTensor, threshold: float | None, started: float
) -> LayerResult:
    spectra = views[0].singular_values
    if views[0].is_zero:
        seconds = time.perf_counter() - started
        report = unchanged(planned, threshold, Reason.ZERO, seconds=seconds)
        return LayerResult(report=report, singular_values=spectra)
    reason, choice, factors = Reason.NUMERICAL_FAILURE, None, None
    try:
        choice = chosen(views, planned, threshold)
        reason = planned.too_high(choice.viewed.view, choice.rank) or Reason.ABOVE_BREAK_EVEN
        if planned.too_high(choice.viewed.view, choice.rank) is None:
            factors = _factors(choice, planned)
    except NumericalFailure:
        reason = Reason.NUMERICAL_FAILURE
    except CastOverflow:
        reason = Reason.CAST_OVERFLOW
    spectra = views[0].singular_values  # after the choice, which may have refined them
    report = measured(
        planned,
        threshold,
        None if choice is None else choice.cut,
        factors,
        reason=None if factors else reason,
        seconds=time.perf_counter() - started,
    )
    if factors is None or report.action is not Action.FACTORISED:
        return LayerResult(report=report, singular_values=spectra)
    return LayerResult(
        report=report, right=factors.right, left=factors.left, singular_values=spectra
    )


def _factors(choice: Choice, planned: PlannedTensor) -> Factors | None:
    """The stored factors; None when they are not fewer bytes than the tensor."""
    viewed = choice.viewed
    factors = store(viewed.matrices, viewed.factors(choice.ranks), viewed.view, viewed.dtype)
    written = factors.right.nbytes + factors.left.nbytes
    return factors if written < planned.tensor.nbytes else None
