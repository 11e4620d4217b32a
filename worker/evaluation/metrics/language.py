"""Language models: perplexity, cross entropy and accuracy of the next token."""

from __future__ import annotations

import torch
from torch.nn import functional
from torchmetrics.text import Perplexity

from rankpress.schemas.report import Metric
from worker.evaluation.metrics import names
from worker.evaluation.metrics.base import Outputs, metric
from worker.evaluation.resample import PairedSums
from worker.evaluation.targets import IGNORE_INDEX


class LanguageScores:
    """Logits [B, T, V] against next tokens [B, T], -100 for a token that is not scored.

    Texts are resampled, not tokens, since the tokens of one text depend on each other.
    """

    def __init__(self, samples: int) -> None:
        self._sides = [Perplexity(ignore_index=IGNORE_INDEX).set_dtype(torch.float64) for _ in "dc"]
        self._sums = PairedSums(samples, 5)  # tokens, two sums of -ln p, two counts of right tokens

    def update(self, outputs: Outputs) -> None:
        assert outputs.targets is not None
        target_BT = outputs.targets.to(outputs.dense.device, torch.int64)
        scored_BT = target_BT != IGNORE_INDEX
        columns = [scored_BT.sum(dim=1).double()]
        rights = []
        for side, logits_BTV in zip(self._sides, (outputs.dense, outputs.compressed), strict=True):
            side.to(logits_BTV.device).update(logits_BTV, target_BT)
            loss_BT = functional.cross_entropy(
                logits_BTV.transpose(1, 2), target_BT, ignore_index=IGNORE_INDEX, reduction="none"
            )
            columns.append(loss_BT.double().sum(dim=1))
            rights.append(((logits_BTV.argmax(-1) == target_BT) & scored_BT).sum(dim=1).double())
        self._sums.add(torch.stack([*columns, *rights], dim=1))

    def compute(self) -> list[Metric]:
        perplexity, entropy, accuracy = self._sums.intervals(_differences)
        tokens, loss_d, loss_c, right_d, right_c = self._sums.totals().tolist()
        if tokens == 0:
            nan = float("nan")
            return [
                metric(name, nan, nan, None, higher_is_better=better, reason="no token is scored")
                for name, better in (
                    (names.PERPLEXITY, False),
                    (names.CROSS_ENTROPY, False),
                    (names.ACCURACY, True),
                )
            ]
        dense, compressed = (float(side.compute()) for side in self._sides)
        return [
            metric(names.PERPLEXITY, dense, compressed, perplexity, higher_is_better=False),
            metric(
                names.CROSS_ENTROPY,
                loss_d / tokens,
                loss_c / tokens,
                entropy,
                higher_is_better=False,
            ),
            metric(
                names.ACCURACY, right_d / tokens, right_c / tokens, accuracy, higher_is_better=True
            ),
        ]


def _differences(sums_RD: torch.Tensor) -> torch.Tensor:
    """[R, 3]: perplexity, cross entropy and accuracy, compressed - dense."""
    tokens, loss_d, loss_c, right_d, right_c = sums_RD.unbind(dim=1)
    return torch.stack(
        [
            (loss_c / tokens).exp() - (loss_d / tokens).exp(),
            (loss_c - loss_d) / tokens,
            (right_c - right_d) / tokens,
        ],
        dim=1,
    )
