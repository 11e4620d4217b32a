"""Numbers: mean absolute error, mean squared error, and R2."""

from __future__ import annotations

from math import prod

import torch
from torchmetrics import Metric as TorchMetric
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

from rankpress.schemas.report import Metric
from worker.evaluation.metrics import names
from worker.evaluation.metrics.base import Outputs, metric
from worker.evaluation.resample import PairedSums


class RegressionScores:
    """Outputs [B, ...] against targets of that shape; [B] goes with one output.

    R2 is the mean of the outputs' R2 (torchmetrics' and scikit-learn's uniform average); null
    where an output's targets do not vary.
    """

    def __init__(self, samples: int, output_shape: tuple[int, ...]) -> None:
        self._width = prod(output_shape)
        self._sides = [
            {
                names.MAE: MeanAbsoluteError(),
                names.MSE: MeanSquaredError(),
                names.R2: R2Score(multioutput="raw_values"),
            }
            for _ in range(2)
        ]
        for side in self._sides:
            for each in side.values():
                each.set_dtype(torch.float64)
        self._samples = samples
        self._shift: torch.Tensor | None = None
        # count, two mean absolute errors; then per output: y, y^2 and two squared errors
        self._sums = PairedSums(samples, 3 + 4 * self._width)

    def update(self, outputs: Outputs) -> None:
        assert outputs.targets is not None
        count = outputs.dense.shape[0]
        target_BO = outputs.targets.to(outputs.dense.device).double().reshape(count, -1)
        errors = []
        for side, output in zip(self._sides, (outputs.dense, outputs.compressed), strict=True):
            output_BO = output.double().reshape(count, -1)
            for each in side.values():
                each.to(output_BO.device).update(output_BO, target_BO)
            errors.append(output_BO - target_BO)
        if self._shift is None:  # near the mean, so that the sums of squares keep their digits
            self._shift = target_BO.mean(dim=0)
        y_BO = target_BO - self._shift
        head = torch.stack(
            [torch.ones(count, dtype=torch.float64, device=y_BO.device)]
            + [error.abs().mean(dim=1) for error in errors],
            dim=1,
        )
        self._sums.add(torch.cat([head, y_BO, y_BO.square(), *(e.square() for e in errors)], dim=1))

    def compute(self) -> list[Metric]:
        mae, mse, r2 = self._sums.intervals(self._differences)
        sides = [
            {name: float(side[name].compute()) for name in (names.MAE, names.MSE)}
            | {names.R2: self._r2(side[names.R2])}
            for side in self._sides
        ]
        dense, compressed = sides
        return [
            metric(
                name,
                dense[name],
                compressed[name],
                interval,
                higher_is_better=name == names.R2,
                reason=None
                if name != names.R2 or dense[name] == dense[name]
                else "the targets of an output do not vary, or there is one sample",
            )
            for name, interval in ((names.MAE, mae), (names.MSE, mse), (names.R2, r2))
        ]

    def _r2(self, score: TorchMetric) -> float:
        """torchmetrics calls a constant target 0 or 1; here it has no R2."""
        sums = self._sums.totals()[3 : 3 + 2 * self._width]
        y, yy = torch.split(sums, self._width)
        spread = yy - y.square() / self._samples
        if self._samples < 2 or bool((spread <= 1e-12 * yy.clamp(min=1e-300)).any()):
            return float("nan")
        return float(score.compute().mean())

    def _differences(self, sums_RD: torch.Tensor) -> torch.Tensor:
        """[R, 3]: MAE, MSE and R2, compressed - dense."""
        count = sums_RD[:, 0]
        y, yy, dense, compressed = torch.split(sums_RD[:, 3:], self._width, dim=1)
        spread = yy - y.square() / count.unsqueeze(1)
        return torch.stack(
            [
                (sums_RD[:, 2] - sums_RD[:, 1]) / count,
                (compressed - dense).mean(dim=1) / count,
                ((dense - compressed) / spread).mean(dim=1),
            ],
            dim=1,
        )
