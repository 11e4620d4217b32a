"""Every factorised layer in the order in which samples come through them, each refitted for what
the layers before it, refitted already, now give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from rankpress.names import Action, OutputLayout
from rankpress.schemas.report import LayerReport
from worker.aware.correction import Correction, corrections
from worker.aware.statistics import Statistics
from worker.aware.watchable import watchable
from worker.evaluation.architecture import Architecture
from worker.evaluation.weights import Weights
from worker.factorise.factors import CastOverflow, relative_error
from worker.ranks.slices import spectra_of, view_named
from worker.read.plan import Plan, PlannedTensor
from worker.refit.fitting import NoFit, fit, residuals_of
from worker.refit.pairs import Pair
from worker.tensors import Checkpoint
from worker.write.parts import BIAS, LEFT, RIGHT, Parts, factor_key

# Not RuntimeError, its base: that is also what a machine without memory says.
LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
LEAST_GAIN = 1e-6  # of a layer's error: below it the refit would keep what rounding gives


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a layer's refit came to. `tensors` are empty where it keeps the factors it had."""

    report: LayerReport
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Refitting:
    """One result's refit: everything it reads. `parts` are as they are at that result."""

    model: Checkpoint
    plan: Plan
    layers: tuple[LayerReport, ...]
    parts: Parts
    statistics: Statistics
    architecture: Architecture
    batches: Callable[[], Iterator[Mapping[str, torch.Tensor]]]
    layout: OutputLayout
    device: torch.device

    def run(
        self, advanced: Callable[[int, int], None]
    ) -> tuple[tuple[LayerReport, ...], dict[str, torch.Tensor]]:
        """The reports of all layers, and the right factors and biases that were kept. Raises
        EvaluationMismatch for an architecture whose layers are out of reach."""
        planned = {p.name: p for p in self.plan.tensors}
        factorised = {r.name: r for r in self.layers if r.action is Action.FACTORISED}
        corrected = corrections(self.model, planned, factorised, self.statistics)
        if self.layout is OutputLayout.DENSE:  # a bias that is not there is not written
            corrected = {n: c for n, c in corrected.items() if c.stored is not None}
        pair = self._pair(factorised, planned, corrected)
        order = pair.order(name for name in factorised if _has_inputs(pair, name))
        tensors: dict[str, torch.Tensor] = {}
        for done, name in enumerate(order):
            advanced(done, len(order))
            fitted = self._fitted(factorised[name], planned[name], corrected.get(name), pair)
            factorised[name] = fitted.report
            tensors |= fitted.tensors
        advanced(len(order), len(order))
        return tuple(factorised.get(r.name, r) for r in self.layers), tensors

    def _pair(
        self,
        factorised: Mapping[str, LayerReport],
        planned: Mapping[str, PlannedTensor],
        corrected: Mapping[str, Correction],
    ) -> Pair:
        """The dense model twice, once with the layers as they would be written now."""

        def moved() -> Iterator[dict[str, torch.Tensor]]:
            for batch in self.batches():
                yield {name: tensor.to(self.device) for name, tensor in batch.items()}

        dense, compressed = (
            watchable(self.architecture, self.model.tensors, Weights(self.model), self.device)
            for _ in range(2)
        )
        pair = Pair(dense=dense, compressed=compressed, samples=moved)
        for name, report in factorised.items():
            view = view_named(planned[name], report.kind)
            right, left = self.parts.tensor(name, RIGHT), self.parts.tensor(name, LEFT)
            bias = corrected[name].value(self.model, self.parts) if name in corrected else None
            pair.put(name, view.to_tensor(left, right), bias)
        return pair

    def _fitted(
        self,
        report: LayerReport,
        planned: PlannedTensor,
        correction: Correction | None,
        pair: Pair,
    ) -> Fitted:
        """One layer; a refit that is better is put into the pair, for the layers after it."""
        name, view = report.name, view_named(planned, report.kind)
        right, left = self.parts.tensor(name, RIGHT), self.parts.tensor(name, LEFT)
        bias = None if correction is None else correction.value(self.model, self.parts)
        try:
            rows = self.statistics.sensitivity(name)
            moments = pair.moments(name, rows)
            if moments is None:
                return Fitted(report=report, tensors={})
            residuals = residuals_of(moments, view.n, centred=bias is not None)
            found = fit(residuals, view, right, left, bias, rows)
            weights_MN = view.to_matrices(self.model.tensor(name))
            error = relative_error(weights_MN, found.right, left, view)
        except (NoFit, CastOverflow, LinAlgError):
            return Fitted(report=report, tensors={})
        whole = sum(float((s**2).sum()) for s in spectra_of(self.parts, name))
        before = math.sqrt(residuals.error / whole)
        if found.error > (1 - LEAST_GAIN) * residuals.error:
            return Fitted(report=_told(report, before, before, kept=False), tensors={})
        pair.put(name, view.to_tensor(left, found.right), found.bias)
        tensors = {factor_key(name, RIGHT, 0): found.right}
        if found.bias is not None:
            tensors[factor_key(name, BIAS, 0)] = found.bias
        told = _told(report, before, math.sqrt(found.error / whole), kept=True)
        return Fitted(report=told.model_copy(update={"relative_error": error}), tensors=tensors)


def _told(report: LayerReport, before: float, after: float, *, kept: bool) -> LayerReport:
    return report.model_copy(
        update={
            "refitted": kept,
            "calibration_error_before": before,
            "calibration_error": after,
        }
    )


def _has_inputs(pair: Pair, name: str) -> bool:
    """Whether a layer sees what others give: the indices of an embedding are always the same."""
    return not isinstance(pair.compressed.layers[name], nn.Embedding)


def told(layers: Iterable[LayerReport]) -> tuple[str, ...]:
    """Sentences for the report of a job that asked for the refit."""
    factorised = [r for r in layers if r.action is Action.FACTORISED]
    kept = sum(r.refitted is True for r in factorised)
    worse = sum(r.refitted is False for r in factorised)
    left = len(factorised) - kept - worse
    text = (
        f"Refitted on the calibration samples: {kept} of {len(factorised)} factorised layers, each "
        "for what the layers before it now give; calibration_error says what that brought"
    )
    if worse:
        text += f"; no better for it, and kept as they were: {worse}"
    if left:
        text += (
            f"; not tried: {left}, which are embeddings, whose indices no layer changes, or do not "
            "run alike in both models, or hold numbers that are not finite"
        )
    return (text + ".",)
