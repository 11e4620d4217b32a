"""The rule auto: the smallest model on the Lagrangian path whose loss is surely within bounds.

Candidates are tried from the largest down, and the search ends at the first whose confidence
interval reaches beyond the bound. Tested in that fixed order, the last one accepted breaks the
bound with no more than the level of a single test, however many were tried; the interval is
two-sided at 95 %, so that its worse end is a one-sided bound at 97.5 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rankpress.names import Verdict
from rankpress.schemas.report import Metric, PathPoint
from worker.evaluation.verdict import judge
from worker.ranks.allocation import Ranked, Ranker, Unit
from worker.ranks.budget import BudgetTooSmall

LARGEST, STEP, MOST = 0.95, 0.92, 64


@dataclass(frozen=True, kw_only=True)
class Found:
    """`ranked` None: not even the largest candidate keeps to the bound."""

    ranked: Ranked | None
    path: tuple[PathPoint, ...]


def smallest(
    path_down: Iterable[Ranked],
    score: Callable[[Ranked], Sequence[Metric]],
    max_drop: Mapping[str, float],
    advanced: Callable[[int, int], None],
) -> Found:
    """The last of `path_down` (see `candidates`) before one is not surely within `max_drop`.

    `score` measures a candidate against the dense model, on samples kept for the search.
    """
    path: list[PathPoint] = []
    best: Ranked | None = None
    for ranked in path_down:
        metrics = tuple(score(ranked))
        accepted = judge(metrics, max_drop) is Verdict.WITHIN
        path.append(
            PathPoint(
                parameters_after=ranked.cost,
                share=ranked.cost / ranked.whole,
                metrics=metrics,
                accepted=accepted,
            )
        )
        advanced(len(path), MOST)
        if not accepted:
            break
        best = ranked
    return Found(ranked=best, path=tuple(path))


def candidates(ranker: Ranker) -> Iterator[Ranked]:
    """Allocations of falling size, each 8 % smaller than the last, down to the lowest ranks."""
    share, last = LARGEST, None
    whole = ranker.whole(Unit.PARAMETERS)
    for _ in range(MOST):
        try:
            ranked = ranker.within(int(share * whole), Unit.PARAMETERS)
        except BudgetTooSmall:
            return
        share *= STEP
        if ranked.ranks != last:
            last = ranked.ranks
            yield ranked
