"""Which layers keep a compressed model from being faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from rankpress.schemas.report import Latency, LayerLatency
from worker.evaluation.architecture import Architecture
from worker.evaluation.weights import Weights

_WARMUPS = 2
_REPEATS = 9
_TOLD = 5


def slow_batch(latency: Sequence[Latency]) -> int | None:
    """The largest batch size at which the compressed model is not faster."""
    return max((each.batch_size for each in latency if each.speedup <= 1), default=None)


def measure_layers(
    architecture: Architecture,
    dense: Weights,
    compressed: Weights,
    inputs: Mapping[str, torch.Tensor],
    device: torch.device,
) -> tuple[LayerLatency, ...]:
    """Every factorised layer whose time can be told, dense and compressed in turn; the one that
    costs most time more than before comes first."""
    names = compressed.factorised
    timers = [
        architecture.layer_timer(weights, names, inputs, device) for weights in (dense, compressed)
    ]
    for turn in range(_WARMUPS + _REPEATS):
        for timer in timers if turn % 2 == 0 else reversed(timers):
            timer.run()
    before, after = (timer.seconds() for timer in timers)
    found = [
        LayerLatency(
            name=name,
            dense_seconds=before[name],
            compressed_seconds=after[name],
            speedup=before[name] / max(after[name], 1e-9),
        )
        for name in names
        if name in before and name in after
    ]
    return tuple(sorted(found, key=lambda x: (x.dense_seconds - x.compressed_seconds, x.name)))


def told(layers: Sequence[LayerLatency], batch_size: int) -> str:
    """A sentence for the report."""
    slow = [layer for layer in layers if layer.speedup <= 1]
    begin = f"Not faster at a batch size of {batch_size}"
    if not slow:
        return (
            f"{begin}: no factorised layer takes longer by itself, so what they gain is less than "
            "the noise, or the rest of the model."
        )
    named = ", ".join(f"{layer.name} ({layer.speedup:.2f}x)" for layer in slow[:_TOLD])
    more = f" and {len(slow) - _TOLD} more" if len(slow) > _TOLD else ""
    return (
        f"{begin}: as two factors, {named}{more} take longer than before. `min_speedup` keeps a "
        "layer dense whose rank saves too little; rank_multiple fits ranks to the hardware."
    )
