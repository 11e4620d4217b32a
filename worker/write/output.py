"""What the output file will hold: for each tensor of the input its factors, or itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from rankpress.names import Action, OutputLayout
from rankpress.schemas.manifest import Manifest, ManifestLayer
from rankpress.schemas.report import LayerReport
from worker.aware.correction import Correction
from worker.read.matrix_view import MatrixView, candidate_views
from worker.read.plan import Plan, PlannedTensor
from worker.tensors import Checkpoint, OutputTensor
from worker.write.parts import LEFT, RIGHT, Parts


@dataclass(frozen=True, kw_only=True)
class Output:
    """The tensors in the input's order, and the manifest that explains them (None: no factors)."""

    tensors: tuple[OutputTensor, ...]
    manifest: Manifest | None


def plan_output(
    model: Checkpoint,
    plan: Plan,
    layers: Sequence[LayerReport],
    parts: Parts,
    layout: OutputLayout,
    corrections: Mapping[str, Correction] | None = None,
) -> Output:
    """Nothing is read yet: each tensor is loaded when it is its turn to be written.

    `corrections` replace the biases of factorised layers, or give them one.

    With the layout `factors`, another name of a factorised tensor is left out of the file and
    recorded in the manifest: its bytes would undo what the factors save.
    """
    factorised = {r.name: r for r in layers if r.action is Action.FACTORISED}
    planned = {p.name: p for p in plan.tensors}
    renamed = {
        bias[0]: bias[1]
        for name in factorised
        if (keys := planned[name].keys) is not None and (bias := keys.bias) is not None
    }
    corrections = corrections or {}
    corrected = {c.stored.name: c for c in corrections.values() if c.stored is not None}
    tensors: list[OutputTensor] = []
    aliases: dict[str, str] = {}
    for entry in plan.tensors:
        name, owner = entry.name, entry.tensor.alias_of
        if layout is OutputLayout.DENSE:
            report = factorised.get(owner or name)
            if report:
                tensors.append(_multiplied(entry, report, parts))
            elif name in corrected:
                tensors.append(_corrected(corrected[name], name, model, parts))
            else:
                tensors.append(_as_it_was(model, entry, name))
            # A bias that the layer did not have would be a key that a strict load refuses.
        elif name in corrected:
            key = renamed.get(name, name)
            tensors.append(_corrected(corrected[name], key, model, parts))
        elif name in factorised:
            tensors.extend(_factors(entry, parts))
            if (new := corrections.get(name)) is not None and new.stored is None:
                tensors.append(_corrected(new, _bias_key(entry), model, parts))
        elif owner in factorised:
            aliases[name] = owner
        else:
            tensors.append(_as_it_was(model, entry, renamed.get(name, name)))
    if not factorised:
        return Output(tensors=tuple(tensors), manifest=None)
    described = tuple(_described(planned[name], report) for name, report in factorised.items())
    return Output(
        tensors=tuple(tensors),
        manifest=Manifest(
            layout=layout,
            layers=described if layout is OutputLayout.FACTORS else (),
            aliases=aliases,
        ),
    )


def _as_it_was(model: Checkpoint, entry: PlannedTensor, name: str) -> OutputTensor:
    return OutputTensor(
        name=name,
        dtype=entry.tensor.dtype,
        shape=entry.tensor.shape,
        load=lambda: model.tensor(entry.name),
        source=entry.name,
    )


def _factors(entry: PlannedTensor, parts: Parts) -> tuple[OutputTensor, OutputTensor]:
    assert entry.keys is not None
    return (
        _factor(entry, entry.keys.right, RIGHT, parts),
        _factor(entry, entry.keys.left, LEFT, parts),
    )


def _factor(entry: PlannedTensor, key: str, which: str, parts: Parts) -> OutputTensor:
    return OutputTensor(
        name=key,
        dtype=entry.tensor.dtype,
        shape=parts.shape(entry.name, which),
        load=lambda: parts.tensor(entry.name, which),
    )


def _corrected(correction: Correction, key: str, model: Checkpoint, parts: Parts) -> OutputTensor:
    return OutputTensor(
        name=key,
        dtype=correction.dtype,
        shape=(correction.length,),
        load=lambda: correction.value(model, parts),
    )


def _bias_key(entry: PlannedTensor) -> str:
    assert entry.keys is not None
    assert entry.keys.bias is not None
    return entry.keys.bias[1]


def _multiplied(entry: PlannedTensor, report: LayerReport, parts: Parts) -> OutputTensor:
    """left @ right in the original key, shape and dtype."""
    view = view_of(report)

    def load() -> torch.Tensor:
        left, right = parts.tensor(report.name, LEFT), parts.tensor(report.name, RIGHT)
        return view.to_tensor(left, right).to(left.dtype)

    return OutputTensor(
        name=entry.name, dtype=entry.tensor.dtype, shape=entry.tensor.shape, load=load
    )


def view_of(report: LayerReport) -> MatrixView:
    """The view that a layer was factorised in."""
    views = candidate_views(report.name, report.shape)
    return next(view for view in views if view.kind is report.kind)


def _described(entry: PlannedTensor, report: LayerReport) -> ManifestLayer:
    assert entry.keys is not None
    assert report.rank is not None
    assert report.rule is not None
    return ManifestLayer(
        name=entry.name,
        shape=entry.tensor.shape,
        dtype=entry.tensor.dtype,
        kind=report.kind,
        rank=report.rank,
        rule=report.rule,
        threshold=report.threshold,
        right=entry.keys.right,
        left=entry.keys.left,
        bias=entry.keys.bias,
        refitted=report.refitted is True,
    )
