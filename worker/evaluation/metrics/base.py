"""What the tasks' metrics share."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import torch

from rankpress.schemas.report import Interval, Metric


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """One batch as both models answered it: finite, batch first, on the compute device."""

    dense: torch.Tensor
    compressed: torch.Tensor
    targets: torch.Tensor | None
    token_mask: torch.Tensor | None = None  # [B, T], for language models: 0 is padding
    dense_pair: torch.Tensor | None = None  # the second samples of pairs
    compressed_pair: torch.Tensor | None = None


class Scores(Protocol):
    """Takes the outputs batch by batch, in the set's order, then tells the metrics."""

    def update(self, outputs: Outputs) -> None: ...
    def compute(self) -> list[Metric]: ...


def metric(
    name: str,
    dense: float,
    compressed: float,
    interval: Interval | None,
    *,
    higher_is_better: bool,
    reason: str | None = None,
) -> Metric:
    """A metric whose values that are not finite are null, with the reason."""
    fine = isfinite(dense) and isfinite(compressed)
    if fine and interval is None and reason is None:
        reason = "no interval: too few samples"
    return Metric(
        name=name,
        dense=dense if isfinite(dense) else None,
        compressed=compressed if isfinite(compressed) else None,
        difference=compressed - dense if fine else None,
        interval=interval if fine else None,
        higher_is_better=higher_is_better,
        reason=reason if fine else reason or "undefined on this data",
    )


def squared_norms(difference: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """[B, 2]: per sample ||difference||^2 and ||reference||^2, in float64."""
    return torch.stack(
        [each.flatten(1).double().square().sum(1) for each in (difference, reference)], dim=1
    )
