"""Ranks learned by gradient, on a smooth relaxation: the mathematics of learned.py.

Each hidden matrix is left diag(z) right over its singular directions, with gates z in [0, 1] that
are sigmoids, so that what the gates cost and what the network then answers can be differentiated.
The gates are trained to keep the dense network's logits on the calibration images, without labels,
under a penalty that holds their cost to the budget; while they are, the sigmoids harden. Learned is
either one threshold for each layer (its gates fall off around a rank) or every gate by itself. Both
start where the Lagrangian of `budget` ends, so that a loss is none of a bad start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.aware.weighting import Weighting
from worker.ranks.budget import BudgetLayer, allocate

DIRECTIONS = 128  # of each layer at most; at these shares no rank comes near
STEPS, BATCH, RATE = 200, 128, 0.05
PENALTY = 10.0  # a cost 10 % off the budget weighs as much as a tenth of the starting error
SOFT, HARD = 1.0, 0.05  # the sigmoids' width, first and last
HOW = ("thresholds", "gates")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One hidden matrix by its directions: `left` [M, R], `right` [R, N], what each saves.

    Its answer is left (z * right (x - mean)) + offset, where offset = W mean + b: the mean of what
    is cut goes into the bias. `energies` [R] fall, in one currency for all layers.
    """

    left: Tensor
    right: Tensor
    energies: Tensor
    mean: Tensor
    offset: Tensor

    @property
    def price(self) -> int:
        """Parameters of one direction, m + n."""
        return self.left.shape[0] + self.right.shape[1]

    def answer(self, x: Tensor, gates: Tensor) -> Tensor:
        return ((x - self.mean) @ self.right.T * gates) @ self.left.T + self.offset


def decomposed(linear: nn.Linear, weighting: Weighting, mean: Tensor, *, relative: bool) -> Layer:
    """The layer's first DIRECTIONS under `weighting`; `relative` energies are shares of their sum,
    as `budget` takes them without data."""
    weight = linear.weight.detach().double()
    u, s, vt = torch.linalg.svd(weighting.apply(weight), full_matrices=False)
    count = min(DIRECTIONS, len(s))
    left, right = weighting.undo(u[:, :count] * s[:count], vt[:count])
    energies = s.square()
    bias = linear.bias.detach().double()
    return Layer(
        left=left.float(),
        right=right.float(),
        energies=(energies / energies.sum() if relative else energies)[:count],
        mean=mean.float(),
        offset=(weight @ mean.double() + bias).float(),
    )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A network whose hidden matrices are Layers; its `head` stays dense. ReLU between."""

    layers: tuple[Layer, ...]
    head: nn.Linear

    def answer(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        for layer, z in zip(self.layers, gates, strict=True):
            x = layer.answer(x, z).relu()
        return self.head(x)

    def cost(self, gates: Sequence[Tensor]) -> Tensor:
        """Parameters of the factors: exact for gates of 0 and 1, smooth between."""
        return sum(
            (layer.price * z.sum() for layer, z in zip(self.layers, gates, strict=True)),
            start=torch.zeros(()),
        )

    def by_lagrangian(self, budget: int) -> list[Tensor]:
        """The gates of the rule `budget`. No layer may stay dense: at these shares none could."""
        found = allocate(
            [
                BudgetLayer(
                    name=str(i),
                    singular_values=layer.energies.double().sqrt().numpy(),
                    weight=1.0,
                    cost_per_rank=layer.price,
                    dense_cost=layer.left.shape[0] * layer.right.shape[1],
                    may_stay_dense=False,
                )
                for i, layer in enumerate(self.layers)
            ],
            budget,
        )
        ranks = [found.ranks[str(i)] or 0 for i in range(len(self.layers))]
        return [first(k, layer) for k, layer in zip(ranks, self.layers, strict=True)]


def first(rank: float, layer: Layer) -> Tensor:
    """Gates of the first `rank` directions."""
    return (torch.arange(len(layer.energies)) < rank).float()


def thresholds(values: Sequence[Tensor], cut: Cut, width: float) -> list[Tensor]:
    """One number for each layer, the logarithm of a rank r: its gates are
    sigmoid((r - i) / (width r / 3)), half open at the rank."""
    gates = []
    for value, layer in zip(values, cut.layers, strict=True):
        rank, places = value.exp(), torch.arange(len(layer.energies)) + 0.5
        gates.append(torch.sigmoid((rank - places) / (width * rank / 3)))
    return gates


def separate(values: Sequence[Tensor], cut: Cut, width: float) -> list[Tensor]:
    """One number for each direction."""
    return [torch.sigmoid(value / width) for value in values]


Relax = Callable[[Sequence[Tensor], Cut, float], list[Tensor]]


def learn(cut: Cut, images: Tensor, logits: Tensor, budget: int, how: str) -> list[Tensor]:
    """Gates of 0 and 1 that cost at most `budget`, trained on `images` [B, N] to keep `logits`."""
    begin = cut.by_lagrangian(budget)
    values, relax = _start(cut, begin, how)
    optimiser = torch.optim.Adam(values, RATE)
    with torch.no_grad():
        scale = float((cut.answer(images, begin) - logits).square().mean())
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        width = SOFT * (HARD / SOFT) ** (step / (STEPS - 1))
        places = torch.randint(len(images), (BATCH,), generator=generator)
        gates = relax(values, cut, width)
        error = (cut.answer(images[places], gates) - logits[places]).square().mean() / scale
        off = cut.cost(gates) / budget - 1
        optimiser.zero_grad()
        (error + PENALTY * off.square()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return _hardened(cut, [value.detach() for value in values], budget, how)


def _start(cut: Cut, gates: Sequence[Tensor], how: str) -> tuple[list[Tensor], Relax]:
    if how == "thresholds":
        return [z.sum().log().requires_grad_() for z in gates], thresholds
    # How far an energy is above or below the price at which the Lagrangian stopped.
    values = []
    for layer, z in zip(cut.layers, gates, strict=True):
        logs = layer.energies.clamp(min=1e-30).log().float()
        edge = logs[max(int(z.sum()) - 1, 0)]
        values.append((logs - edge).clamp(-4, 4).requires_grad_())
    return values, separate


def _hardened(cut: Cut, values: Sequence[Tensor], budget: int, how: str) -> list[Tensor]:
    """Within the budget: all ranks scaled alike, or the gates of the largest values."""
    if how == "thresholds":
        low, high = 0.0, float(DIRECTIONS)
        for _ in range(60):
            middle = (low + high) / 2
            over = float(cut.cost(_scaled(cut, values, middle))) > budget
            low, high = (low, middle) if over else (middle, high)
        return _scaled(cut, values, low)
    order = sorted(
        ((float(x), i, j) for i, value in enumerate(values) for j, x in enumerate(value)),
        reverse=True,
    )
    gates, left = [torch.zeros(len(value)) for value in values], budget
    for _, i, j in order:
        if cut.layers[i].price <= left:
            gates[i][j] = 1.0
            left -= cut.layers[i].price
    return gates


def _scaled(cut: Cut, values: Sequence[Tensor], factor: float) -> list[Tensor]:
    return [
        first(max(1, math.floor(factor * float(value.exp()))), layer)
        for value, layer in zip(values, cut.layers, strict=True)
    ]
