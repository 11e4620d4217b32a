"""A tensor under one matrix view, decomposed, and the choice among the views of one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from rankpress.names import Rule
from worker.aware.weighting import Weighting
from worker.factorise.layer_report import Cut
from worker.linalg.certainty import is_certain
from worker.linalg.equal_shapes import Prepared
from worker.linalg.kept import Forms
from worker.linalg.parallel import spread
from worker.linalg.scaling import precision_of
from worker.linalg.spectrum import Decomposition, decompose
from worker.ranks.rules import Spectrum, apply_multiple, rank_for
from worker.read.matrix_view import MatrixView
from worker.read.plan import PlannedTensor


class ViewedTensor:
    """The decompositions of a view's matrices: one, or one for each expert of a stack.

    With a `weighting` they are those of g^T W L, and the factors those of W all the same; it is
    computed in float64, since the roots spread the singular values. Raises NonFinite and
    NumericalFailure as `decompose` does.
    """

    def __init__(
        self,
        tensor: torch.Tensor,
        view: MatrixView,
        device: torch.device,
        weighting: Weighting | None = None,
        forms: Forms | None = None,
        prepared: Sequence[Prepared | None] | None = None,
    ) -> None:
        self.view = view
        self.dtype = tensor.dtype
        self.matrices = view.to_matrices(tensor)
        self._weighting = weighting
        weighted = [w if weighting is None else weighting.apply(w) for w in self.matrices]
        self.decompositions = tuple(
            spread(
                [
                    partial(decompose, w, device=device, forms=forms, prepared=p)
                    for w, p in zip(weighted, prepared or (None,) * len(weighted), strict=True)
                ]
            )
        )
        self.eps = torch.finfo(precision_of(tensor.dtype)).eps

    @property
    def is_zero(self) -> bool:
        return all(d.is_zero for d in self.decompositions)

    @property
    def singular_values(self) -> tuple[Spectrum, ...]:
        return tuple(d.singular_values for d in self.decompositions)

    @property
    def driver(self) -> str:
        return ", ".join(sorted({d.driver for d in self.decompositions if not d.is_zero}))

    def tail_energy(self, ranks: tuple[int, ...]) -> float:
        """||W - W_k||_F^2 of the best approximations at these ranks."""
        pairs = zip(self.singular_values, ranks, strict=True)
        return float(sum(float((s[k:] ** 2).sum()) for s, k in pairs))

    def factors(self, ranks: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(left_MK, right_KN) of each matrix; an expert that is zero gets zeros."""
        of_each = zip(self.matrices, self.decompositions, ranks, strict=True)
        return spread([partial(self._factors, *of_one) for of_one in of_each])

    def _factors(
        self, weight_MN: torch.Tensor, decomposition: Decomposition, k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if decomposition.is_zero:
            return _zeros(weight_MN)
        return self._unweighted(decomposition.factors(k))

    def _unweighted(
        self, pair: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return pair if self._weighting is None else self._weighting.undo(*pair)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A decomposed view and the rank of each of its matrices. `rank`, the largest, is stored."""

    viewed: ViewedTensor
    ranks: tuple[int, ...]

    @property
    def rank(self) -> int:
        return max(self.ranks)

    @property
    def parameters(self) -> int:
        view = self.viewed.view
        return view.count * self.rank * (view.m + view.n)

    @property
    def cut(self) -> Cut:
        viewed = self.viewed
        return Cut(
            view=viewed.view,
            ranks=self.ranks,
            singular_values=viewed.singular_values,
            driver=viewed.driver,
        )


def chosen(views: list[ViewedTensor], planned: PlannedTensor, threshold: float | None) -> Choice:
    """The first view at the rank that the plan asks for, or another that needs fewer parameters
    for no more error."""
    first = Choice(viewed=views[0], ranks=_ranks(views[0], planned, threshold))
    if planned.rank is not None:
        return first
    others = (_alternative(first, viewed, planned, threshold) for viewed in views[1:])
    return min((first, *others), key=lambda choice: choice.parameters)


def certain_rank(
    d: Decomposition, rule: Rule, threshold: float | None, eps: float | None = None
) -> int:
    """The rule's rank, from values refined until no error of theirs could change it.

    `eps` is the epsilon of the precision that the weights are held in, by default that of the
    computation.
    """
    eps = d.eps if eps is None else eps
    while not is_certain(
        rule, d.singular_values, d.m, d.n, threshold, eps=eps, gram_eps=d.gram_eps
    ):
        if not d.refine():
            break
    return rank_for(rule, d.singular_values, d.m, d.n, threshold, eps=eps)


def _ranks(
    viewed: ViewedTensor, planned: PlannedTensor, threshold: float | None
) -> tuple[int, ...]:
    full = viewed.view.full_rank
    if planned.rank is not None:
        return (min(planned.rank, full),) * viewed.view.count
    if planned.rule is None:
        raise ValueError(f"no rule planned for {planned.name}")
    ranks = (
        1 if d.is_zero else certain_rank(d, planned.rule, threshold, viewed.eps)
        for d in viewed.decompositions
    )
    return tuple(apply_multiple(k, planned.rank_multiple, full) for k in ranks)


def _alternative(
    first: Choice, viewed: ViewedTensor, planned: PlannedTensor, threshold: float | None
) -> Choice:
    """The smallest rank of another view of one matrix with no more error than the first choice."""
    if threshold == 1:
        return Choice(viewed=viewed, ranks=_ranks(viewed, planned, threshold))
    allowed = first.viewed.tail_energy(first.ranks)
    (s,) = viewed.singular_values
    tails = np.append(np.cumsum((s * s)[::-1])[::-1][1:], 0.0)  # after 1, 2, ... r values
    k = int(np.argmax(tails <= allowed)) + 1
    k = apply_multiple(k, planned.rank_multiple, viewed.view.full_rank)
    return Choice(viewed=viewed, ranks=(k,))


def _zeros(weight_MN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    m, n = weight_MN.shape
    return weight_MN.new_zeros(m, 1), weight_MN.new_zeros(1, n)
