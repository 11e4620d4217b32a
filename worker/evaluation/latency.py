"""How long a batch takes, dense and compressed in turn in one run, so that both meet the same
machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from rankpress.schemas.report import Latency
from rankpress.schemas.request import Evaluation
from worker.evaluation.architecture import Network
from worker.evaluation.data import read_batches
from worker.evaluation.plan import EvaluationPlan
from worker.evaluation.weights import Weights

_WARMUPS = 3
_LEAST_REPEATS = 9
_MOST_REPEATS = 200
_ROUNDING = 1e-3
SECONDS = 2.0  # aimed at, for both models at one batch size


def measure_latency(
    plan: EvaluationPlan,
    request: Evaluation,
    networks: tuple[Network, Network],
    compressed: Weights,
    validation: Path,
    device: torch.device,
) -> tuple[tuple[Latency, ...], tuple[str, ...]]:
    """At one sample and at the request's batch size, on the first samples of the data; and
    sentences for the report."""
    first = next(islice(read_batches(validation, plan.data), 1)).inputs
    factored, notes = plan.architecture.build_factored(compressed, device)
    fast = networks[1] if factored is None else factored
    if factored is not None and not _same(fast, networks[1], _rows(first, None, device)):
        return (), (*notes, "No latency: the factored graph does not answer as the scored one.")
    held = next(iter(first.values())).shape[0]
    fixed = plan.architecture.batch_size
    sizes = [fixed] if fixed else sorted({1, min(request.batch_size, held)})
    found = []
    for size in sizes:
        inputs = _rows(first, size, device)
        found.append(
            measure(
                partial(networks[0], inputs),
                partial(fast, inputs),
                batch_size=size,
                device=device,
                seconds=SECONDS,
            )
        )
    return tuple(found), notes


def _rows(
    inputs: Mapping[str, torch.Tensor], count: int | None, device: torch.device
) -> dict[str, torch.Tensor]:
    return {name: tensor[:count].to(device) for name, tensor in inputs.items()}


def _same(one: Network, other: Network, inputs: Mapping[str, torch.Tensor]) -> bool:
    """Equal but for rounding: the factors are multiplied in another order."""
    a, b = one(inputs).double(), other(inputs).double()
    return float((a - b).norm()) <= _ROUNDING * max(float(b.norm()), 1e-30)


def measure(
    dense: Callable[[], object],
    compressed: Callable[[], object],
    *,
    batch_size: int,
    device: torch.device,
    seconds: float,
) -> Latency:
    """Median and interquartile range of the wall seconds of one call each.

    The two alternate, and which goes first alternates too, so that neither profits from the
    other's warm caches.
    """
    sides = (dense, compressed)
    for _ in range(_WARMUPS):
        warm = sum(_seconds(side, device) for side in sides)
    repeats = max(_LEAST_REPEATS, min(_MOST_REPEATS, int(seconds / max(warm, 1e-9))))
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            taken[side].append(_seconds(sides[side], device))
    medians = [statistics.median(times) for times in taken]
    return Latency(
        batch_size=batch_size,
        dense_seconds=medians[0],
        compressed_seconds=medians[1],
        dense_spread_seconds=_spread(taken[0]),
        compressed_spread_seconds=_spread(taken[1]),
        speedup=medians[0] / max(medians[1], 1e-9),
        repeats=repeats,
        threads=torch.get_num_threads(),
    )


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _spread(times: list[float]) -> float:
    low, _, high = statistics.quantiles(times, n=4)
    return high - low
