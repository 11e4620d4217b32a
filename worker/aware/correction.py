"""The bias that takes up the mean of a layer's error: b + (W - left right) mu."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rankpress.names import Action
from rankpress.schemas.report import LayerReport
from worker.aware.statistics import Statistics
from worker.ranks.slices import view_named
from worker.read.plan import PlannedTensor
from worker.tensors import Checkpoint, StoredTensor
from worker.write.parts import BIAS, LEFT, RIGHT, Parts


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Of one factorised layer. `stored` is the bias in the input, None where there is none."""

    report: LayerReport
    planned: PlannedTensor
    stored: StoredTensor | None
    mean: torch.Tensor  # [N]

    @property
    def length(self) -> int:
        return self.planned.views[0].m

    @property
    def dtype(self) -> str:
        return self.planned.tensor.dtype if self.stored is None else self.stored.dtype

    def value(self, model: Checkpoint, parts: Parts) -> torch.Tensor:
        """The corrected bias [M] in the dtype it is written in; the input's own where the corrected
        one does not fit that dtype. A refit has made one already."""
        name = self.report.name
        if parts.has(name, BIAS):
            return parts.tensor(name, BIAS)
        view = view_named(self.planned, self.report.kind)
        weight_MN = view.to_matrix(model.tensor(name)).double()
        rights, lefts = view.factor_matrices(parts.tensor(name, RIGHT), parts.tensor(name, LEFT))
        mean_N = self.mean
        bias_M = weight_MN @ mean_N - lefts[0].double() @ (rights[0].double() @ mean_N)
        if self.stored is None:
            return bias_M.to(model.tensor(name).dtype)
        before = model.tensor(self.stored.name)
        corrected = (before.double() + bias_M).to(before.dtype)
        return corrected if bool(corrected.isfinite().all()) else before


def corrections(
    model: Checkpoint,
    planned: Mapping[str, PlannedTensor],
    layers: Mapping[str, LayerReport],
    statistics: Statistics,
) -> dict[str, Correction]:
    """By layer: those that were factorised, have a mean and keep their bias beside them."""
    tensors = {tensor.name: tensor for tensor in model.tensors}
    found: dict[str, Correction] = {}
    for name, report in layers.items():
        keys = planned[name].keys
        if report.action is not Action.FACTORISED or keys is None or keys.bias is None:
            continue
        mean = statistics.mean(name)
        stored = tensors.get(keys.bias[0])
        fits = stored is None or stored.shape == (planned[name].views[0].m,)
        if mean is not None and fits:
            found[name] = Correction(report=report, planned=planned[name], stored=stored, mean=mean)
    return found
