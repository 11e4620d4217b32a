"""within, worse, undecided."""

import pytest

from rankpress.names import Verdict
from rankpress.schemas.report import Interval, Metric
from worker.evaluation.verdict import judge


def metric(name: str, low: float, high: float, *, higher: bool = True) -> Metric:
    middle = (low + high) / 2
    return Metric(
        name=name,
        dense=0.5,
        compressed=0.5 + middle,
        difference=middle,
        interval=Interval(low=low, high=high, level=0.95, method="paired_bootstrap"),
        higher_is_better=higher,
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.004, 0.001, Verdict.WITHIN),
        (-0.005, 0.0, Verdict.WITHIN),
        (0.01, 0.02, Verdict.WITHIN),
        (-0.006, 0.0, Verdict.UNDECIDED),
        (-0.02, -0.006, Verdict.WORSE),
        (-0.02, -0.005, Verdict.UNDECIDED),
    ],
)
def test_accuracy_may_fall_by_half_a_point(low, high, verdict):
    assert judge([metric("accuracy", low, high)], {"accuracy": 0.005}) is verdict


def test_cross_entropy_may_rise():
    bound = {"cross_entropy": 0.1}
    assert judge([metric("cross_entropy", -1, 0.05, higher=False)], bound) is Verdict.WITHIN
    assert judge([metric("cross_entropy", 0.2, 0.3, higher=False)], bound) is Verdict.WORSE
    assert judge([metric("cross_entropy", 0.0, 0.3, higher=False)], bound) is Verdict.UNDECIDED


def test_the_worst_of_several_bounds_decides():
    good, bad, open_ = metric("a", 0, 0.1), metric("b", -0.9, -0.8), metric("c", -0.9, 0.5)
    bound = {"a": 0.1, "b": 0.1, "c": 0.1}
    assert judge([good, bad, open_], bound) is Verdict.WORSE
    assert judge([good, open_], {"a": 0.1, "c": 0.1}) is Verdict.UNDECIDED


def test_nothing_bounded_and_nothing_measured():
    assert judge([metric("a", 0, 0.1)], None) is None
    assert judge([metric("a", 0, 0.1)], {}) is None
    empty = Metric(name="a", dense=None, compressed=None, difference=None, higher_is_better=True)
    assert judge([empty], {"a": 0.1}) is Verdict.UNDECIDED
