"""The report of one layer: what was planned, plus what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rankpress.names import Action, Reason
from rankpress.schemas.report import LayerReport
from worker.factorise.factors import Factors
from worker.ranks.rules import Spectrum, break_even_rank, energy_kept, entropy_kept, tail_share
from worker.read.matrix_view import MatrixView
from worker.read.plan import PlannedTensor

# Reasons for which a tensor was a matrix of real numbers and stays one; the others never were, or
# hold nothing that has a rank.
KEPT_DENSE = frozenset(
    {
        Reason.ABOVE_BREAK_EVEN,
        Reason.BELOW_MIN_SPEEDUP,
        Reason.OUTPUT_PROTECTED,
        Reason.KEEP_DENSE_REQUESTED,
        Reason.KEY_COLLISION,
        Reason.ZERO,
        Reason.CAST_OVERFLOW,
        Reason.ALLOCATED_DENSE,
        Reason.NO_STATISTICS,
        Reason.WHOLE_MODEL_NOT_SMALLER,
    }
)
FAILED = frozenset({Reason.NUMERICAL_FAILURE})


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A view's spectra and the ranks that they are cut at: one each a matrix of the view."""

    view: MatrixView
    ranks: tuple[int, ...]
    singular_values: tuple[Spectrum, ...]
    driver: str

    @property
    def rank(self) -> int:
        return max(self.ranks)


def action_for(reason: Reason) -> Action:
    """What is reported of a tensor that stays as it is for this reason."""
    if reason is Reason.TIED:
        return Action.ALIAS
    if reason in FAILED:
        return Action.FAILED
    return Action.KEPT_DENSE if reason in KEPT_DENSE else Action.PASSED_THROUGH


def unchanged(
    planned: PlannedTensor,
    threshold: float | None,
    reason: Reason,
    *,
    seconds: float | None = None,
) -> LayerReport:
    """The report of a tensor that is written as it came, without a look at its spectrum."""
    tensor = planned.tensor
    size = math.prod(tensor.shape)
    view = planned.views[0] if planned.views else None
    return LayerReport(
        name=tensor.name,
        shape=tensor.shape,
        kind=planned.kind,
        dtype=tensor.dtype,
        action=action_for(reason),
        reason=reason,
        alias_of=tensor.alias_of,
        rule=planned.rule,
        threshold=threshold,
        rank=planned.rank,
        full_rank=view.full_rank if view else None,
        break_even_rank=break_even_rank(view.m, view.n) if view else None,
        parameters_before=size,
        parameters_after=size,
        bytes_before=tensor.nbytes,
        bytes_after=tensor.nbytes,
        seconds=seconds,
    )


def measured(
    planned: PlannedTensor,
    threshold: float | None,
    cut: Cut | None,
    factors: Factors | None,
    *,
    reason: Reason | None,
    seconds: float,
) -> LayerReport:
    """The report of a decomposed tensor. `factors` None: it stays dense for `reason`."""
    report = unchanged(planned, threshold, reason or Reason.ABOVE_BREAK_EVEN, seconds=seconds)
    if cut is None:
        return report
    view = cut.view
    spectra = [(s, k) for s, k in zip(cut.singular_values, cut.ranks, strict=True) if s[0] > 0]
    of_all = max(s[0] for s, _ in spectra)
    weights = [float(((s / of_all) ** 2).sum()) for s, _ in spectra]
    update: dict[str, object] = {
        "kind": view.kind,
        "rank": cut.rank,
        "full_rank": view.full_rank,
        "break_even_rank": break_even_rank(view.m, view.n),
        "energy_kept": sum(
            w * energy_kept(s, k) for w, (s, k) in zip(weights, spectra, strict=True)
        )
        / sum(weights),
        "entropy_kept": sum(entropy_kept(s, k) for s, k in spectra) / len(spectra),
        "spectral_error": max(float(s[k]) if k < len(s) else 0.0 for s, k in spectra),
        "driver": cut.driver,
    }
    if factors is not None and planned.keys is not None:
        update |= {
            "action": Action.FACTORISED,
            "reason": None,
            "relative_error": factors.relative_error,
            "optimal_relative_error": math.sqrt(
                sum(w * tail_share(s, k) for w, (s, k) in zip(weights, spectra, strict=True))
                / sum(weights)
            ),
            "parameters_after": factors.right.numel() + factors.left.numel(),
            "bytes_after": factors.right.nbytes + factors.left.nbytes,
            "factor_keys": (planned.keys.right, planned.keys.left),
        }
        if len(cut.ranks) > 1:
            update["note"] = "ranks of the experts: " + ", ".join(map(str, cut.ranks))
    return report.model_copy(update=update)
