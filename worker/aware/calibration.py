"""Statistics made on the service: the dense model runs over the calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from rankpress.errors import EvaluationMismatch
from rankpress.loading.gathering import NoStatistics, gather
from rankpress.loading.statistics import padding_mask, write_statistics
from rankpress.names import Sensitivity
from worker.aware.watchable import watchable
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
    names: frozenset[str],
    two_sided: bool,
    sensitivity: Sensitivity,
    device: torch.device,
    seed: int = 0,
) -> int:
    """Writes the statistics of the weights `names` to `path`; returns how many samples were seen.

    Raises EvaluationMismatch when no layer is wanted, the samples are too few or the model's
    answers not finite.
    """
    found = watchable(architecture, dense.tensors, Weights(dense), device)
    wanted = {key: module for key, module in found.layers.items() if key in names}

    if not wanted:
        raise EvaluationMismatch(
            "No layer is to be factorised (all are kept dense, protected or too small), so there "
            "is nothing to calibrate; leave `aware` out."
        )

    def moved() -> Iterator[dict[str, torch.Tensor]]:
        for batch in batches:
            yield {name: tensor.to(device) for name, tensor in batch.items()}

    try:
        tensors, info = gather(
            found.model,
            moved(),
            wanted,
            found.run,
            two_sided=two_sided,
            sensitivity=sensitivity,
            seed=seed,
            mask_of=padding_mask,
        )
    except NoStatistics as error:
        raise EvaluationMismatch(
            "The samples give no statistics of the layers: they are too few, or the dense model's "
            "values on them are not finite."
        ) from error
    if info.samples < LEAST_SAMPLES:
        raise EvaluationMismatch(
            f"{info.samples} samples are too few to calibrate on; {LEAST_SAMPLES} are the least, "
            "and some hundred are better."
        )
    write_statistics(path, tensors, info)
    return info.samples
