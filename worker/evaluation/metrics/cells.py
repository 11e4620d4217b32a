"""Counts of (target, dense prediction, compressed prediction): all that F1 and accuracy need.

A bootstrap of the samples is a multinomial draw of these counts, at a cost that grows with the
number of different cells and not with the number of samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rankpress.schemas.report import Interval
from worker.evaluation.intervals import mcnemar_cells, paired_proportions
from worker.evaluation.resample import RESAMPLES, percentile_interval

Array = NDArray[Any]

_SEED = 2504_20078
_BLOCK_CELLS = 8_000_000


class Cells:
    """The joint table of two classifiers on one labelled set, `classes` classes."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._counts: dict[int, int] = {}

    def add(
        self, target_B: torch.Tensor, dense_B: torch.Tensor, compressed_B: torch.Tensor
    ) -> None:
        c = self._classes
        code = (target_B.cpu() * c + dense_B.cpu()) * c + compressed_B.cpu()
        values, counts = np.unique(code.numpy(), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._counts[value] = self._counts.get(value, 0) + count

    def table(self) -> tuple[Array, Array, Array, Array]:
        """Targets, dense and compressed predictions, counts: one entry a cell, in fixed order."""
        code = np.array(sorted(self._counts), dtype=np.int64)
        counts = np.array([self._counts[int(v)] for v in code], dtype=np.int64)
        c = self._classes
        return code // (c * c), code // c % c, code % c, counts

    def accuracy_interval(self) -> Interval:
        target, dense, compressed, counts = self.table()
        cells = mcnemar_cells(dense == target, compressed == target)
        return paired_proportions(*(int(counts[cell].sum()) for cell in cells))

    def macro_f1_interval(self) -> Interval | None:
        """Paired bootstrap of macro F1, compressed - dense."""
        target, dense, compressed, counts = self.table()
        total = int(counts.sum())
        if total < 2:
            return None
        here = counts.reshape(1, -1)
        difference = float(
            macro_f1(target, compressed, here, self._classes)[0]
            - macro_f1(target, dense, here, self._classes)[0]
        )
        generator = np.random.default_rng(_SEED)
        block = max(1, _BLOCK_CELLS // max(len(counts), self._classes))
        values = []
        for start in range(0, RESAMPLES, block):
            rows = min(block, RESAMPLES - start)
            drawn = generator.multinomial(total, counts / total, size=rows)
            values.append(
                macro_f1(target, compressed, drawn, self._classes)
                - macro_f1(target, dense, drawn, self._classes)
            )
        return percentile_interval(torch.from_numpy(np.concatenate(values)), difference)


def macro_f1(target: Array, prediction: Array, counts_RK: Array, classes: int) -> Array:
    """Macro F1 of R weighted tables of K cells.

    The mean over the classes that occur among targets or predictions, as torchmetrics and
    scikit-learn have it; a class with no true positive counts as 0.
    """
    rows = counts_RK.shape[0]
    hit = np.where(target == prediction, counts_RK, 0)
    tp, said, real = (np.zeros((rows, classes)) for _ in range(3))
    for sums, index, weight in (
        (tp, target, hit),
        (said, prediction, counts_RK),
        (real, target, counts_RK),
    ):
        np.add.at(sums.T, index, weight.T)
    both = said + real
    present = both > 0
    f1 = np.divide(2 * tp, both, out=np.zeros_like(tp), where=present)
    mean: Array = f1.sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return mean
