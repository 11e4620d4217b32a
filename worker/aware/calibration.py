"""Statistics made on the service: the dense model runs over the calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from rankpress.errors import EvaluationMismatch
from rankpress.loading.gathering import NoStatistics, gather
from rankpress.loading.statistics import padding_mask, write_statistics
from rankpress.names import Sensitivity
from rankpress.schemas.statistics import StatisticsInfo
from worker.aware.watchable import in_reach, watchable
from worker.evaluation.architecture import Architecture
from worker.evaluation.weights import Weights
from worker.tensors import Checkpoint

LEAST_SAMPLES = 16  # fewer say nothing about a covariance


def calibrate(
    architecture: Architecture,
    dense: Checkpoint,
    batches: Iterable[Mapping[str, torch.Tensor]],
    path: Path,
    *,
    count: int,
    names: frozenset[str],
    sensitivity: Sensitivity | None,
    device: torch.device,
) -> int:
    """Writes the statistics of the weights `names` to `path`, with sensitivities unless that is
    None; returns how many samples were seen. `batches` hold `count` of them.

    Raises EvaluationMismatch when no layer is wanted, the samples are too few or the model's
    answers not finite.
    """
    if not names:
        raise EvaluationMismatch(
            "No layer is to be factorised (all are kept dense, protected or too small), so there "
            "is nothing to calibrate; leave `aware` out."
        )
    try:
        tensors, info = _gathered(architecture, dense, batches, count, names, sensitivity, device)
    except NoStatistics as error:
        raise EvaluationMismatch(
            f"The samples give no statistics of the layers: {error}."
        ) from error
    if info.samples < LEAST_SAMPLES:
        raise EvaluationMismatch(
            f"{info.samples} samples are too few to calibrate on; {LEAST_SAMPLES} are the least, "
            "and some hundred are better."
        )
    write_statistics(path, tensors, info)
    return info.samples


def _gathered(
    architecture: Architecture,
    dense: Checkpoint,
    batches: Iterable[Mapping[str, torch.Tensor]],
    count: int,
    names: frozenset[str],
    sensitivity: Sensitivity | None,
    device: torch.device,
) -> tuple[dict[str, torch.Tensor], StatisticsInfo]:
    weights = Weights(dense)
    if not in_reach(architecture):
        from worker.aware.graph import gather_by_runs
        from worker.evaluation.template import TemplateArchitecture

        assert isinstance(architecture, TemplateArchitecture)
        return gather_by_runs(
            architecture,
            weights,
            batches,
            count=count,
            names=names,
            sensitivity=sensitivity,
            device=device,
        )
    found = watchable(architecture, dense.tensors, weights, device)
    return gather(
        found.model,
        ({name: tensor.to(device) for name, tensor in batch.items()} for batch in batches),
        {key: module for key, module in found.layers.items() if key in names},
        found.run,
        two_sided=sensitivity is not None,
        sensitivity=sensitivity or Sensitivity.OUTPUT,
        mask_of=padding_mask,
    )
