"""Whether the compressed model stays within the drop that the caller allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rankpress.names import Verdict
from rankpress.schemas.report import Metric


def judge(metrics: Sequence[Metric], max_drop: Mapping[str, float] | None) -> Verdict | None:
    """`within` when the whole interval of every bounded metric is, `worse` when the whole
    interval of one is beyond its bound, else `undecided`; None when nothing is bounded.

    A drop is a loss of quality: a fall of accuracy, a rise of cross entropy.
    """
    if not max_drop:
        return None
    by_name = {metric.name: metric for metric in metrics}
    verdicts = {_judge_one(by_name.get(name), bound) for name, bound in max_drop.items()}
    for verdict in (Verdict.WORSE, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Verdict.WITHIN


def _judge_one(metric: Metric | None, bound: float) -> Verdict:
    if metric is None or metric.interval is None:
        return Verdict.UNDECIDED
    low, high = metric.interval.low, metric.interval.high
    least, most = (-high, -low) if metric.higher_is_better else (low, high)
    if most <= bound:
        return Verdict.WITHIN
    return Verdict.WORSE if least > bound else Verdict.UNDECIDED
