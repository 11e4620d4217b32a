"""Turns, medians and spreads."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Median and quartiles of a few numbers."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        spread = f" ({number(self.low)}-{number(self.high)})" if self.count > 1 else ""
        return f"{number(self.median)}{spread}"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Seconds of one call: on the clock, and of processor time in all threads."""

    wall: float
    processor: float


def summary(numbers: Sequence[float]) -> Summary:
    """Raises ValueError for none at all."""
    if not numbers:
        raise ValueError("nothing was measured")
    low, _, high = (
        statistics.quantiles(numbers, n=4, method="inclusive")
        if len(numbers) > 1
        else [numbers[0]] * 3
    )
    return Summary(median=statistics.median(numbers), low=low, high=high, count=len(numbers))


def take_turns(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: bool = True
) -> dict[str, list[Turn]]:
    """Every contender once a round; who begins moves on by one each round."""
    if warm_up:
        for run in contenders.values():
            run()
    names = list(contenders)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for i in range(rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            turns[name].append(timed(contenders[name]))
    return turns


def timed(run: Callable[[], object]) -> Turn:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return Turn(wall=time.perf_counter() - wall, processor=time.process_time() - processor)


def ratios(slower: Sequence[Turn], faster: Sequence[Turn]) -> Summary:
    """How many times longer `slower` takes, round by round, on the clock."""
    return summary([s.wall / f.wall for s, f in zip(slower, faster, strict=True)])


def geometric_mean(numbers: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(x) for x in numbers))


def number(x: float) -> str:
    """Three digits, no exponent for what people read."""
    if x == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(x))))
    return f"{x:.{min(digits, 6)}f}"
