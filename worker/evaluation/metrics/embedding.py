"""Embeddings: the cosine of each to the dense model's, and Spearman's correlation with scores."""

from __future__ import annotations

import torch
from torch.nn import functional
from torchmetrics.functional.regression import spearman_corrcoef

from rankpress.schemas.report import Metric
from worker.evaluation.metrics import names
from worker.evaluation.metrics.base import Outputs, metric
from worker.evaluation.resample import PairedSums


class EmbeddingScores:
    """Vectors [B, D] (more axes are flattened); pairs with scores when the data has them."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._sums = PairedSums(samples, 2)  # count, cosine
        self._similarities: list[torch.Tensor] = []  # [B, 3]: dense, compressed, the score given

    def update(self, outputs: Outputs) -> None:
        dense, compressed = (
            outputs.dense.flatten(1).double(),
            outputs.compressed.flatten(1).double(),
        )
        cosine_B = functional.cosine_similarity(dense, compressed, dim=1)
        cosine_B = torch.where((dense == compressed).all(dim=1), 1.0, cosine_B)
        self._sums.add(torch.stack([torch.ones_like(cosine_B), cosine_B], dim=1))
        if outputs.dense_pair is None or outputs.compressed_pair is None:
            return
        assert outputs.targets is not None
        columns = [
            functional.cosine_similarity(one, other.flatten(1).double(), dim=1).cpu()
            for one, other in ((dense, outputs.dense_pair), (compressed, outputs.compressed_pair))
        ]
        self._similarities.append(torch.stack([*columns, outputs.targets.cpu().double()], dim=1))

    def compute(self) -> list[Metric]:
        total = self._sums.totals()
        (interval,) = self._sums.intervals(lambda sums: (sums[:, 1:2] / sums[:, 0:1]) - 1)
        found = [
            metric(names.COSINE, 1.0, float(total[1] / total[0]), interval, higher_is_better=True)
        ]
        if self._similarities:
            found.append(self._spearman(torch.cat(self._similarities)))
        return found

    def _spearman(self, similarities_N3: torch.Tensor) -> Metric:
        scores_N = similarities_N3[:, 2]
        values = [
            float(spearman_corrcoef(similarities_N3[:, side], scores_N))
            if len(scores_N) > 1 and bool((scores_N != scores_N[0]).any())
            else float("nan")
            for side in (0, 1)
        ]
        ranks_N3 = torch.stack([_ranks(similarities_N3[:, i]) for i in range(3)], dim=1)
        dense, compressed, score = (ranks_N3 - ranks_N3.mean(dim=0)).unbind(dim=1)
        ones = torch.ones_like(score)
        sums = PairedSums(len(score), 9)
        sums.add(
            torch.stack(
                [
                    ones,
                    score,
                    score**2,
                    *(
                        term
                        for side in (dense, compressed)
                        for term in (side, side**2, side * score)
                    ),
                ],
                dim=1,
            )
        )
        # The ranks of the whole set are resampled; ranking each resample anew would cost a sort
        # of the set two thousand times and changes little beyond the ties.
        (interval,) = sums.intervals(
            lambda s: (_correlation(s, 6) - _correlation(s, 3)).unsqueeze(1)
        )
        return metric(
            names.SPEARMAN,
            values[0],
            values[1],
            interval,
            higher_is_better=True,
            reason=None if values[0] == values[0] else "the scores or similarities do not vary",
        )


def _ranks(values_N: torch.Tensor) -> torch.Tensor:
    """Ranks from 1, ties sharing their mean."""
    _, inverse, counts = torch.unique(values_N, return_inverse=True, return_counts=True)
    middle: torch.Tensor = counts.cumsum(0).double() - (counts.double() - 1) / 2
    return middle[inverse]


def _correlation(sums_RD: torch.Tensor, at: int) -> torch.Tensor:
    """Pearson's correlation of the side whose sums begin at column `at` with the score."""
    n, y, yy = sums_RD[:, 0], sums_RD[:, 1], sums_RD[:, 2]
    x, xx, xy = sums_RD[:, at], sums_RD[:, at + 1], sums_RD[:, at + 2]
    return (n * xy - x * y) / ((n * xx - x * x) * (n * yy - y * y)).sqrt()
