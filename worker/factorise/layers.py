"""A group of layers from the checkpoint to the tensors of its part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from rankpress.names import Reason
from rankpress.schemas.report import LayerReport
from rankpress.schemas.request import JobRequest
from worker.child.messages import JobInputs, WideLayer
from worker.device import threads_for
from worker.factorise.layer import LayerResult, factorise_layer_many
from worker.factorise.layer_report import unchanged
from worker.factorise.together import NOTHING, PreparedViews, shape_by_shape
from worker.factorise.wide import WideResult, factorise_wide
from worker.linalg.kept import Forms
from worker.linalg.parallel import Task, run_tasks
from worker.read.cost import working_bytes
from worker.read.opened import Opened
from worker.read.plan import PlannedTensor
from worker.write.parts import LEFT, RIGHT, SPECTRUM, factor_key


@dataclass(frozen=True, kw_only=True)
class Group:
    """Reports of the first result and of the others, layers whose rank is chosen later, and what
    goes into the part."""

    layers: tuple[LayerReport, ...]
    others: tuple[tuple[LayerReport, ...], ...]
    wide: tuple[WideLayer, ...]
    tensors: dict[str, torch.Tensor]


def factorise_names(
    opened: Opened,
    inputs: JobInputs,
    names: tuple[str, ...],
    device: torch.device,
    advanced: Callable[[int, int], None],
) -> Group:
    """The named layers, several at once on a CPU; all results are in the order of the names.

    `advanced` gets (layers done, layers in all).
    """
    planned = {p.name: p for p in opened.plan.tensors}
    statistics = opened.statistics()
    limits = inputs.limits
    forms = None
    if limits.forms is not None and limits.forms_bytes > 0:
        forms = Forms(limits.forms, limits.forms_bytes)

    def factorised(
        name: str, prepared: PreparedViews = NOTHING
    ) -> tuple[LayerResult, ...] | WideResult:
        if statistics is not None and name not in statistics.known:
            # The samples never came through it, whatever the architecture says.
            return _stays(planned[name], inputs.request, Reason.NO_STATISTICS)
        try:
            weighting = None if statistics is None else statistics.weighting(name)
        except RuntimeError:  # torch: the eigenvectors did not converge
            return _stays(planned[name], inputs.request, Reason.NUMERICAL_FAILURE)
        run = factorise_wide if inputs.request.is_allocated else factorise_layer_many
        return run(
            opened.model.tensor(name),
            planned[name],
            device=device,
            weighting=weighting,
            forms=forms,
            prepared=prepared,
        )

    if device.type == "cuda" and statistics is None:
        together = shape_by_shape(names, planned, opened.model.tensor, device)
        of_name = {}
        for name, prepared in together:
            of_name[name] = factorised(name, prepared)
            advanced(len(of_name), len(names))
        return _gathered({name: of_name[name] for name in names}, inputs.request.results)
    found = run_tasks(
        [
            Task(
                run=partial(factorised, name),
                cost=planned[name].estimated_seconds,
                memory=working_bytes(planned[name].views, planned[name].tensor),
            )
            for name in names
        ],
        threads=threads_for(limits) if device.type == "cpu" else 1,
        memory=limits.layers_bytes,
        done=lambda done: advanced(done, len(names)),
    )
    if forms is not None:
        forms.prune()
    return _gathered(dict(zip(names, found, strict=True)), inputs.request.results)


def _stays(
    planned: PlannedTensor, request: JobRequest, reason: Reason
) -> tuple[LayerResult, ...] | WideResult:
    reports = [unchanged(planned, t, reason) for t in planned.thresholds]
    if request.is_allocated:
        return WideResult(report=reports[0])
    return tuple(LayerResult(report=report) for report in reports)


def _gathered(found: dict[str, tuple[LayerResult, ...] | WideResult], results: int) -> Group:
    reports: list[list[LayerReport]] = [[] for _ in range(results)]
    wide: list[WideLayer] = []
    tensors: dict[str, torch.Tensor] = {}
    for name, result in found.items():
        if isinstance(result, WideResult):
            _keep(name, 0, result, tensors)
            if result.layer is not None:
                wide.append(result.layer)
            elif result.report is not None:
                for of_result in reports:
                    of_result.append(result.report)
        else:
            for i, layer in enumerate(result):
                reports[i].append(layer.report)
                _keep(name, i, layer, tensors)
    first, *others = (tuple(of_result) for of_result in reports)
    return Group(layers=first, others=tuple(others), wide=tuple(wide), tensors=tensors)


def _keep(
    name: str, i: int, result: LayerResult | WideResult, tensors: dict[str, torch.Tensor]
) -> None:
    if result.right is not None and result.left is not None:
        tensors[factor_key(name, RIGHT, i)] = result.right
        tensors[factor_key(name, LEFT, i)] = result.left
    if result.singular_values:
        tensors[f"{name}/{SPECTRUM}"] = torch.from_numpy(np.stack(result.singular_values))
