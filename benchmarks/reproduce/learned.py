"""An experiment: are ranks that are learned by gradient better than those of a Lagrangian?

    python -m benchmarks.reproduce.learned --data mnist --seeds 0

The same directions, the same calibration images, the same parameters: the only difference is who
chose which directions stay. Labels are not read but for the accuracy on the test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reproduce.asked import mlps
from benchmarks.reproduce.data import CALIBRATION, DataSet, Split
from benchmarks.reproduce.gates import HOW, Cut, decomposed, learn
from benchmarks.reproduce.measured import kept
from benchmarks.reproduce.models import loaded
from rankpress.loading.gathering import gather
from rankpress.schemas.statistics import COVARIANCE, MEAN, SENSITIVITY
from rankpress.service.store import sha256_of
from worker.aware.roots import root_of
from worker.aware.weighting import Weighting
from worker.evaluation.intervals import mcnemar_cells, paired_proportions

SHARES = {"mnist": (0.03, 0.05), "fashion_mnist": (0.05, 0.08)}  # of all parameters
BATCH = 128  # samples of a calibration step


def main() -> None:
    for data, seed, path in mlps(__doc__):
        rows = compared(data, loaded(path, "mlp").eval())
        kept(f"learned/{data.name}/{seed}", {"checkpoint": sha256_of(path), "rows": rows})


def compared(data: DataSet, model: nn.Sequential) -> list[dict[str, Any]]:
    """A row for each share and kind of direction: accuracies, and learned less Lagrangian."""
    images = data.train.images[:CALIBRATION]
    with torch.no_grad():
        logits = model(images)
    dense = _right(model(data.test.images), data.test)
    rows = []
    for directions, cut in _cuts(model, images).items():
        for share in SHARES[data.name]:
            budget = _for_factors(model, cut, share)
            before = cut.by_lagrangian(budget)
            right = _scored(cut, before, data.test)
            row: dict[str, Any] = {
                "directions": directions,
                "share": share,
                "dense": float(dense.double().mean()),
                "lagrangian": float(right.double().mean()),
                "ranks": [int(z.sum()) for z in before],
            }
            for how in HOW:
                gates = learn(cut, images, logits, budget, how)
                found = _scored(cut, gates, data.test)
                interval = _difference(right, found)
                row[how] = {
                    "accuracy": float(found.double().mean()),
                    "interval": [interval.low, interval.high],
                    "ranks": [int(z.sum()) for z in gates],
                }
            print(data.name, row, flush=True)
            rows.append(row)
    return rows


def _cuts(model: nn.Sequential, images: Tensor) -> dict[str, Cut]:
    """The network by the directions of the plain SVD, and by the two-sided ones."""
    linears = [module for module in model if isinstance(module, nn.Linear)]
    hidden = {str(i): linear for i, linear in enumerate(linears[:-1])}
    moments, _ = gather(model, images.split(BATCH), hidden, model, two_sided=True)
    plain, two_sided = [], []
    for name, linear in hidden.items():
        nothing = torch.zeros(linear.in_features)  # without data no bias is corrected
        plain.append(decomposed(linear, Weighting(), nothing, relative=True))
        weighting = Weighting(
            rows=root_of(moments[f"{name}/{SENSITIVITY}"]),
            columns=root_of(moments[f"{name}/{COVARIANCE}"]),
        )
        mean = moments[f"{name}/{MEAN}"]
        two_sided.append(decomposed(linear, weighting, mean, relative=False))
    return {
        "plain SVD": Cut(layers=tuple(plain), head=linears[-1].requires_grad_(requires_grad=False)),
        "two_sided": Cut(layers=tuple(two_sided), head=linears[-1]),
    }


def _for_factors(model: nn.Sequential, cut: Cut, share: float) -> int:
    """What a share of all parameters leaves for the factors: biases and head are spent already."""
    whole = sum(parameter.numel() for parameter in model.parameters())
    spent = sum(len(layer.offset) for layer in cut.layers)
    return int(share * whole) - spent - sum(p.numel() for p in cut.head.parameters())


def _scored(cut: Cut, gates: Sequence[Tensor], data: Split) -> Tensor:
    with torch.inference_mode():
        return _right(cut.answer(data.images, gates), data)


def _right(logits: Tensor, data: Split) -> Tensor:
    return logits.argmax(dim=1) == data.labels


def _difference(first: Tensor, second: Tensor) -> Any:
    """The paired 95 % interval of second - first, both [B] bool."""
    return paired_proportions(*(int(cell.sum()) for cell in mcnemar_cells(first, second)))


if __name__ == "__main__":
    main()
