"""The paired bootstrap of any statistic that is a function of sums over samples.

Both models see the same samples, so one resampled set scores both and only their difference
varies. Samples are kept as sums: at most `MAX_GROUPS` rows of them. Beyond that many samples each
joins a group drawn at random, and groups are resampled in their place; the variance of a sum is
the same, and memory no longer grows with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from rankpress.schemas.report import Interval
from worker.evaluation.intervals import LEVEL

RESAMPLES = 2000
MAX_GROUPS = 20_000
_MAX_CELLS = 8_000_000  # of float64: 64 MB for the groups, and for a block of resamples
_SEED = 2504_20078


class PairedSums:
    """Sums of D features over the samples of a set whose size is known beforehand."""

    def __init__(self, samples: int, features: int, seed: int = _SEED) -> None:
        groups = min(samples, MAX_GROUPS, max(_MAX_CELLS // max(features, 1), 100))
        self.samples = samples
        self._seed = seed
        self._grouping = groups < samples
        self._generator = torch.Generator().manual_seed(seed)
        self._sums_GD = torch.zeros(groups, features, dtype=torch.float64)
        self._next = 0

    def add(self, features_BD: torch.Tensor) -> None:
        """One row a sample, in the set's order."""
        rows = features_BD.to("cpu", torch.float64)
        count = rows.shape[0]
        if self._grouping:
            index = torch.randint(self._sums_GD.shape[0], (count,), generator=self._generator)
        else:
            index = torch.arange(self._next, self._next + count)
        self._next += count
        self._sums_GD.index_add_(0, index, rows)

    def totals(self) -> torch.Tensor:
        return self._sums_GD.sum(dim=0)

    def replicates(self) -> Iterator[torch.Tensor]:
        """Blocks [b, D] of the sums of resampled sets, `RESAMPLES` rows in all; seeded."""
        groups = self._sums_GD.shape[0]
        generator = torch.Generator().manual_seed(self._seed + 1)
        block = max(1, min(RESAMPLES, _MAX_CELLS // groups))
        for start in range(0, RESAMPLES, block):
            rows = min(block, RESAMPLES - start)
            drawn = torch.randint(groups, (rows, groups), generator=generator)
            counts = torch.zeros(rows, groups, dtype=torch.float64)
            counts.scatter_add_(1, drawn, torch.ones((), dtype=torch.float64).expand(rows, groups))
            yield counts @ self._sums_GD

    def intervals(
        self, differences: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[Interval | None]:
        """One interval for each column of `differences`, a function [b, D] -> [b, Q].

        None where there are too few samples to resample, or a statistic is not finite.
        """
        here = differences(self.totals().unsqueeze(0))[0]
        if self.samples < 2:
            return [None] * here.shape[0]
        values_RQ = torch.cat([differences(block) for block in self.replicates()])
        return [percentile_interval(values_RQ[:, q], float(here[q])) for q in range(here.shape[0])]


def percentile_interval(values: torch.Tensor, difference: float) -> Interval | None:
    """The middle 95 % of the resampled differences, widened to hold the measured one.

    Resampling biases some statistics (a calibration error can only grow); the interval must not
    then exclude what was measured. None when over one in a hundred resamples has no finite value.
    """
    finite = values[values.isfinite()]
    if finite.numel() < 0.99 * values.numel() or difference != difference:
        return None
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(
        finite.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64)
    ).tolist()
    return Interval(
        low=min(low, difference),
        high=max(high, difference),
        level=LEVEL,
        method="paired_bootstrap",
    )
