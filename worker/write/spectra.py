"""The singular values of every layer, as the document that GET /spectrum answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rankpress.names import Kind
from rankpress.schemas.report import LayerReport
from rankpress.schemas.spectrum import LayerSpectrum, SpectrumDocument
from worker.linalg.scaling import precision_of
from worker.read.plan import Plan, PlannedTensor
from worker.tensors import dtype_of
from worker.write.parts import SPECTRUM, Parts


def write_spectra(
    path: Path, plan: Plan, layers: Sequence[LayerReport], parts: Parts, *, allocated: bool
) -> None:
    """Every layer that was decomposed, in the file's order; values of the view the rule reads:
    the first, or the one of the report where ranks were `allocated` together."""
    decomposed = {r.name: r for r in layers if parts.has(r.name, SPECTRUM)}
    document = SpectrumDocument(
        layers=tuple(
            _layer(p, parts, decomposed[p.name].kind if allocated else p.views[0].kind)
            for p in plan.tensors
            if p.name in decomposed
        )
    )
    path.write_text(document.model_dump_json(exclude_none=True))


def _layer(planned: PlannedTensor, parts: Parts, kind: Kind) -> LayerSpectrum:
    view = next(view for view in planned.views if view.kind is kind)
    dtype = dtype_of(planned.tensor.dtype)
    values = [tuple(row) for row in parts.tensor(planned.name, SPECTRUM).tolist()]
    stack = view.count > 1
    return LayerSpectrum(
        name=planned.name,
        shape=planned.tensor.shape,
        kind=view.kind,
        m=view.m,
        n=view.n,
        count=view.count,
        bytes_per_parameter=dtype.itemsize,
        eps=torch.finfo(precision_of(dtype)).eps,
        singular_values=None if stack else values[0],
        expert_singular_values=tuple(values) if stack else None,
    )
