"""One class a sample: accuracy, top-5, macro F1, cross entropy, calibration error."""

from __future__ import annotations

import torch
from torch.nn import functional
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

from rankpress.schemas.report import Metric
from worker.evaluation.intervals import mcnemar_cells, paired_proportions
from worker.evaluation.metrics import names
from worker.evaluation.metrics.base import Outputs, metric
from worker.evaluation.metrics.cells import Cells
from worker.evaluation.resample import PairedSums

CALIBRATION_BINS = 15


class ClassificationScores:
    """Logits [B, C] against class numbers [B]. A tie goes to the lower class."""

    def __init__(self, samples: int, classes: int) -> None:
        self._classes = classes
        self._dense, self._compressed = (_Side(classes) for _ in range(2))
        self._cells = Cells(classes)
        self._top5 = [0, 0, 0, 0]  # both, dense only, compressed only, neither
        # count, two cross entropies, two sets of bins of (confidence - correct)
        self._sums = PairedSums(samples, 3 + 2 * (CALIBRATION_BINS + 1))

    def update(self, outputs: Outputs) -> None:
        assert outputs.targets is not None
        target_B = outputs.targets.to(outputs.dense.device, torch.int64)
        dense = self._dense.update(outputs.dense.double(), target_B)
        compressed = self._compressed.update(outputs.compressed.double(), target_B)
        self._cells.add(target_B, dense.prediction_B, compressed.prediction_B)
        for i, hits in enumerate(mcnemar_cells(dense.in_top5_B, compressed.in_top5_B)):
            self._top5[i] += int(hits.sum())
        self._sums.add(
            torch.cat(
                [
                    torch.ones_like(dense.cross_entropy_B).unsqueeze(1),
                    dense.cross_entropy_B.unsqueeze(1),
                    compressed.cross_entropy_B.unsqueeze(1),
                    dense.bins_BN,
                    compressed.bins_BN,
                ],
                dim=1,
            )
        )

    def compute(self) -> list[Metric]:
        cross_entropy, calibration = self._sums.intervals(_differences)
        total = self._sums.totals()
        dense, compressed = self._dense.compute(), self._compressed.compute()
        found = [
            metric(
                names.ACCURACY,
                dense[names.ACCURACY],
                compressed[names.ACCURACY],
                self._cells.accuracy_interval(),
                higher_is_better=True,
            )
        ]
        if self._classes >= names.TOP_K:
            found.append(
                metric(
                    names.TOP5,
                    dense[names.TOP5],
                    compressed[names.TOP5],
                    paired_proportions(*self._top5),
                    higher_is_better=True,
                )
            )
        return [
            *found,
            metric(
                names.MACRO_F1,
                dense[names.MACRO_F1],
                compressed[names.MACRO_F1],
                self._cells.macro_f1_interval(),
                higher_is_better=True,
            ),
            metric(
                names.CROSS_ENTROPY,
                float(total[1] / total[0]),
                float(total[2] / total[0]),
                cross_entropy,
                higher_is_better=False,
            ),
            metric(
                names.CALIBRATION,
                dense[names.CALIBRATION],
                compressed[names.CALIBRATION],
                calibration,
                higher_is_better=False,
            ),
        ]


class _Batch:
    """What one model's batch of logits says of each sample."""

    def __init__(self, logits_BC: torch.Tensor, target_B: torch.Tensor) -> None:
        self.probability_BC = logits_BC.softmax(dim=1)
        self.prediction_B = logits_BC.argmax(dim=1)
        self.cross_entropy_B = functional.cross_entropy(logits_BC, target_B, reduction="none")
        top = min(names.TOP_K, logits_BC.shape[1])
        self.in_top5_B = (logits_BC.topk(top, dim=1).indices == target_B.unsqueeze(1)).any(dim=1)
        confidence_B = self.probability_BC.gather(1, self.prediction_B.unsqueeze(1)).squeeze(1)
        gap_B = confidence_B - (self.prediction_B == target_B).double()
        edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.float64, device=gap_B.device)
        index_B = torch.bucketize(confidence_B, edges, right=True) - 1
        self.bins_BN = torch.zeros(
            len(gap_B), CALIBRATION_BINS + 1, dtype=torch.float64, device=gap_B.device
        ).scatter_(1, index_B.unsqueeze(1), gap_B.unsqueeze(1))


class _Side:
    """The torchmetrics of one model."""

    def __init__(self, classes: int) -> None:
        self._metrics = {
            names.ACCURACY: MulticlassAccuracy(classes, average="micro"),
            names.MACRO_F1: MulticlassF1Score(classes, average="macro"),
            names.CALIBRATION: MulticlassCalibrationError(classes, n_bins=CALIBRATION_BINS),
        }
        if classes >= names.TOP_K:
            self._metrics[names.TOP5] = MulticlassAccuracy(
                classes, top_k=names.TOP_K, average="micro"
            )
        for each in self._metrics.values():
            each.set_dtype(torch.float64)

    def update(self, logits_BC: torch.Tensor, target_B: torch.Tensor) -> _Batch:
        batch = _Batch(logits_BC, target_B)
        for name, each in self._metrics.items():
            # Probabilities, because torchmetrics guesses batch by batch whether it got logits;
            # top-5 and the others by the logits' order, which rounding cannot tie.
            given = {names.CALIBRATION: batch.probability_BC, names.TOP5: logits_BC}.get(
                name, batch.prediction_B
            )
            each.to(logits_BC.device).update(given, target_B)
        return batch

    def compute(self) -> dict[str, float]:
        return {name: float(each.compute()) for name, each in self._metrics.items()}


def _differences(sums_RD: torch.Tensor) -> torch.Tensor:
    """[R, 2]: cross entropy and calibration error, compressed - dense."""
    count = sums_RD[:, 0]
    width = CALIBRATION_BINS + 1
    dense = sums_RD[:, 3 : 3 + width].abs().sum(dim=1)
    compressed = sums_RD[:, 3 + width :].abs().sum(dim=1)
    return torch.stack(
        [sums_RD[:, 2] - sums_RD[:, 1], compressed - dense], dim=1
    ) / count.unsqueeze(1)
