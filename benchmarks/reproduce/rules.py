"""The rules of the table, the settings tried of each, and how one of them is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from rankpress.names import Verdict
from rankpress.schemas.report import FrontierPoint, Metric
from worker.evaluation.verdict import judge

BOUND = 0.005  # half a point of accuracy
STEP = 0.92  # from one share to the next, as on the path of the rule auto
SOFTMAX = {"aware": "two_sided", "sensitivity": "softmax"}


def _ladder(first: float, last: float) -> tuple[float, ...]:
    """Shares falling by STEP, from `first` to no less than `last`."""
    count = math.floor(math.log(last / first) / math.log(STEP)) + 1
    return tuple(round(first * STEP**i, 4) for i in range(count))


def _grid(first: float, last: float, step: float) -> tuple[float, ...]:
    """Thresholds from `first` down to `last`."""
    return tuple(round(first - i * step, 4) for i in range(round((first - last) / step) + 1))


# Every list falls: settings are tried from the largest model down, and no further than need be.
# Each begins at more than half of the weights, where no rule loses much.
SHARES = _ladder(0.6, 0.02)
# So fine that a step of them, too, changes a network's size by about 8 % where it matters.
LITERAL_ENTROPIES = _grid(0.95, 0.5, 0.025)
ENTROPIES = _grid(0.6, 0.3, 0.025) + _grid(0.2875, 0.05, 0.0125)
ENERGIES = _grid(0.95, 0.3, 0.025)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A row of the table. `settings` is the list that becomes the job's frontier; a rule without
    one has a single result."""

    name: str
    fields: dict[str, Any]
    setting: str | None = None
    settings: tuple[Any, ...] = ()

    def sweep(self) -> dict[str, Any]:
        """The request's fields for all settings at once."""
        return self.fields if self.setting is None else {**self.fields, self.setting: self.settings}

    def parts(self, size: int) -> list[Candidate]:
        """The same rule with `size` of its settings at a time, in their order."""
        if self.setting is None:
            return [self]
        places = range(0, len(self.settings), size)
        return [replace(self, settings=self.settings[i : i + size]) for i in places]

    def at(self, index: int) -> dict[str, Any]:
        """The request's fields for one of the settings."""
        chosen = {} if self.setting is None else {self.setting: self.settings[index]}
        return {**self.fields, **chosen}


def _budget(name: str, **aware: str) -> Candidate:
    return Candidate(
        name=name,
        fields={"rule": "budget", **aware},
        setting="budget",
        settings=tuple({"parameters": share} for share in SHARES),
    )


CANDIDATES = (
    Candidate(
        name="entropy, literal (the paper's)",
        fields={"rule": "entropy", "protect_output": False},
        setting="threshold",
        settings=LITERAL_ENTROPIES,
    ),
    Candidate(
        name="entropy, output dense",
        fields={"rule": "entropy"},
        setting="threshold",
        settings=ENTROPIES,
    ),
    Candidate(
        name="ratio, output dense", fields={"rule": "ratio"}, setting="threshold", settings=SHARES
    ),
    Candidate(
        name="energy, output dense",
        fields={"rule": "energy"},
        setting="threshold",
        settings=ENERGIES,
    ),
    Candidate(name="evbmf, output dense", fields={"rule": "evbmf"}),
    _budget("budget"),
    _budget("inputs + budget", aware="inputs"),
    _budget("two_sided + budget", aware="two_sided"),
    _budget("two_sided, softmax + budget", **SOFTMAX),
)
AUTO = "auto, two_sided, softmax"
NAMES = (*(candidate.name for candidate in CANDIDATES), AUTO)


def accuracy_of(metrics: tuple[Metric, ...]) -> Metric:
    return next(metric for metric in metrics if metric.name == "accuracy")


def surely_within(points: tuple[FrontierPoint, ...]) -> list[int]:
    """Indices of the models, from the largest down, before the first whose loss on the validation
    images is not surely within BOUND: its whole paired 95 % interval has to be.

    That is the search of the rule auto. Tested in this fixed order, the last model breaks the
    bound with no more than the level of one test, 2.5 %, however fine the grid is; the smallest of
    all that seem good enough would be the luckiest of many.
    """
    found = []
    for point in sorted(points, key=lambda point: -point.parameters_after):
        if judge(point.metrics, {"accuracy": BOUND}) is not Verdict.WITHIN:
            break
        found.append(point.index)
    return found
