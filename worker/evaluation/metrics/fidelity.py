"""How close the compressed model's answers are to the dense model's, with or without labels."""

from __future__ import annotations

import torch

from rankpress.names import Task
from rankpress.schemas.report import Metric
from worker.evaluation.intervals import agreement_below_one
from worker.evaluation.metrics import names
from worker.evaluation.metrics.base import Outputs, metric, squared_norms
from worker.evaluation.resample import PairedSums


class FidelityScores:
    """Agreement, relative output error of the whole set, and of the worst sample.

    The dense model's own values are those of perfect fidelity: agreement 1, errors 0.
    """

    def __init__(self, samples: int, task: Task, output_shape: tuple[int, ...]) -> None:
        self._task = task
        self._decides = task in (
            Task.CLASSIFICATION,
            Task.MULTILABEL,
            Task.LANGUAGE_MODELLING,
        ) or (task is Task.FIDELITY and bool(output_shape) and output_shape[-1] > 1)
        # squared norms of the error and of the output, agreeing decisions, decisions
        self._sums = PairedSums(samples, 4)
        self._seen = 0
        self._worst = 0.0
        self._worst_sample: int | None = None

    def update(self, outputs: Outputs) -> None:
        dense, compressed = outputs.dense, outputs.compressed
        norms_B2 = squared_norms(*self._of_real_tokens(compressed - dense, dense, outputs))
        agreeing_B, decisions_B = self._agreement(outputs)
        self._sums.add(torch.cat([norms_B2, agreeing_B, decisions_B], dim=1))
        ratio_B = torch.where(norms_B2[:, 1] > 0, norms_B2[:, 0] / norms_B2[:, 1], -1.0).sqrt()
        ratio_B = ratio_B.nan_to_num(nan=-1.0)
        at = int(ratio_B.argmax())
        worst = float(ratio_B[at])
        if worst >= 0 and (self._worst_sample is None or worst > self._worst):
            self._worst, self._worst_sample = worst, self._seen + at
        self._seen += len(ratio_B)

    def compute(self) -> list[Metric]:
        error, reference, agreeing, decisions = self._sums.totals().tolist()
        rate, relative = self._sums.intervals(_statistics)
        found = []
        if self._decides and decisions:
            single = self._task is not Task.LANGUAGE_MODELLING
            found.append(
                metric(
                    names.AGREEMENT,
                    1.0,
                    agreeing / decisions,
                    # Tokens of one text are not independent, so texts are resampled instead.
                    agreement_below_one(int(agreeing), int(decisions)) if single else rate,
                    higher_is_better=True,
                )
            )
        whole = (error / reference) ** 0.5 if reference > 0 else float("nan")
        found.append(
            metric(
                names.RELATIVE_ERROR,
                0.0,
                whole,
                relative,
                higher_is_better=False,
                reason=None if reference > 0 else "the dense model's outputs are all zero",
            )
        )
        where = self._worst_sample
        found.append(
            metric(
                names.WORST_SAMPLE,
                0.0,
                self._worst if where is not None else float("nan"),
                None,
                higher_is_better=False,
                reason="the dense model's outputs are all zero"
                if where is None
                else f"sample {where}; a maximum has no bootstrap interval",
            )
        )
        return found

    def _agreement(self, outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
        dense, compressed = outputs.dense, outputs.compressed
        count = dense.shape[0]
        if not self._decides:
            nothing = torch.zeros(count, 1, dtype=torch.float64, device=dense.device)
            return nothing, nothing
        if self._task is Task.MULTILABEL:
            same = ((dense > 0) == (compressed > 0)).flatten(1).all(dim=1, keepdim=True)
        else:
            same = (dense.argmax(-1) == compressed.argmax(-1)).reshape(count, -1)
        counted = torch.ones_like(same)
        if outputs.token_mask is not None and same.shape == outputs.token_mask.shape:
            counted = outputs.token_mask.bool()
        return (
            (same & counted).sum(1, keepdim=True).double(),
            counted.sum(1, keepdim=True).double(),
        )

    def _of_real_tokens(
        self, error: torch.Tensor, dense: torch.Tensor, outputs: Outputs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mask = outputs.token_mask
        if mask is None or dense.dim() != 3 or dense.shape[:2] != mask.shape:
            return error, dense
        keep = mask.unsqueeze(-1).to(dense.dtype)
        return error * keep, dense * keep


def _statistics(sums_RD: torch.Tensor) -> torch.Tensor:
    """[R, 2]: agreement less 1, and the relative output error."""
    return torch.stack(
        [sums_RD[:, 2] / sums_RD[:, 3] - 1, (sums_RD[:, 0] / sums_RD[:, 1]).sqrt()], dim=1
    )
