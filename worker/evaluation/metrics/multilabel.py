"""Several yes-or-no labels a sample; a label is given where its logit is above 0."""

from __future__ import annotations

import torch
from torch.nn import functional
from torchmetrics.classification import MultilabelAccuracy, MultilabelExactMatch, MultilabelF1Score

from rankpress.schemas.report import Metric
from worker.evaluation.intervals import mcnemar_cells, paired_proportions
from worker.evaluation.metrics import names
from worker.evaluation.metrics.base import Outputs, metric
from worker.evaluation.resample import PairedSums


class MultilabelScores:
    """Logits [B, L] against labels [B, L] of 0 and 1.

    accuracy is the share of labels told right, exact_match that of samples with every label
    right. Macro F1 is the mean over the labels, a label that is never given nor true counting 0
    out of the mean, as torchmetrics has it.
    """

    def __init__(self, samples: int, labels: int) -> None:
        self._labels = labels
        self._sides = [
            {
                names.ACCURACY: MultilabelAccuracy(labels, average="micro"),
                names.EXACT_MATCH: MultilabelExactMatch(labels),
                names.MACRO_F1: MultilabelF1Score(labels, average="macro"),
            }
            for _ in range(2)
        ]
        self._exact = [0, 0, 0, 0]
        # count; per side the labels told right and the cross entropy; true labels; then per side
        # true positives and labels given
        self._sums = PairedSums(samples, 5 + 5 * labels)

    def update(self, outputs: Outputs) -> None:
        assert outputs.targets is not None
        target_BL = outputs.targets.to(outputs.dense.device).to(torch.int64)
        rights, entropies, counts = [], [], [target_BL.double()]
        for side, logits_BL in zip(
            self._sides, (outputs.dense.double(), outputs.compressed.double()), strict=True
        ):
            said_BL = (logits_BL > 0).to(torch.int64)
            for each in side.values():
                each.to(said_BL.device).update(said_BL, target_BL)
            rights.append(said_BL == target_BL)
            entropies.append(
                functional.binary_cross_entropy_with_logits(
                    logits_BL, target_BL.double(), reduction="none"
                ).mean(dim=1)
            )
            counts += [(said_BL * target_BL).double(), said_BL.double()]
        for i, hits in enumerate(mcnemar_cells(*(right.all(dim=1) for right in rights))):
            self._exact[i] += int(hits.sum())
        shares = [right.double().mean(dim=1) for right in rights]
        head = torch.stack([torch.ones_like(shares[0]), *shares, *entropies], dim=1)
        self._sums.add(torch.cat([head, *counts], dim=1))

    def compute(self) -> list[Metric]:
        dense, compressed = (
            {name: float(each.compute()) for name, each in side.items()} for side in self._sides
        )
        accuracy, entropy, f1 = self._sums.intervals(self._differences)
        total = self._sums.totals()
        return [
            metric(name, dense[name], compressed[name], interval, higher_is_better=True)
            for name, interval in (
                (names.ACCURACY, accuracy),
                (names.EXACT_MATCH, paired_proportions(*self._exact)),
                (names.MACRO_F1, f1),
            )
        ] + [
            metric(
                names.CROSS_ENTROPY,
                float(total[3] / total[0]),
                float(total[4] / total[0]),
                entropy,
                higher_is_better=False,
            )
        ]

    def _differences(self, sums_RD: torch.Tensor) -> torch.Tensor:
        """[R, 3]: accuracy, cross entropy and macro F1, compressed - dense."""
        count = sums_RD[:, 0]
        real, tp_d, said_d, tp_c, said_c = torch.split(sums_RD[:, 5:], self._labels, dim=1)
        return torch.stack(
            [
                (sums_RD[:, 2] - sums_RD[:, 1]) / count,
                (sums_RD[:, 4] - sums_RD[:, 3]) / count,
                _macro_f1(tp_c, said_c, real) - _macro_f1(tp_d, said_d, real),
            ],
            dim=1,
        )


def _macro_f1(tp_RL: torch.Tensor, said_RL: torch.Tensor, real_RL: torch.Tensor) -> torch.Tensor:
    both = said_RL + real_RL
    f1 = torch.where(both > 0, 2 * tp_RL / both.clamp(min=1), 0.0)
    return f1.sum(dim=1) / (both > 0).sum(dim=1).clamp(min=1)
