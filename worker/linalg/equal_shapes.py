"""Matrices of one shape decomposed together on a GPU, while the next ones are on their way there.

A small matrix keeps a GPU busy for less time than its calls take; many in one call are another
matter. A batch is sent through pinned memory, on a stream of its own and by a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from worker.linalg.drivers import PASSING, GramEigh, gram_eigh_together
from worker.linalg.scaling import NonFinite, Scaled, scaled

Load = Callable[[], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Prepared:
    """A matrix on its device and the driver of its batch's one call; None where that failed."""

    scaled: Scaled
    driver: GramEigh | None


def prepared(loads: Sequence[Load], device: torch.device) -> Iterator[list[Prepared | None]]:
    """For each batch of matrices weight_MN of one shape and dtype, what `decompose` needs to know
    of each. None for those that it has to see itself: a zero matrix, one that is not finite, a
    batch for which there is no memory."""
    with ThreadPoolExecutor(1, thread_name_prefix="sending") as thread:
        stream = None
        if device.type == "cuda":
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

        def send(load: Load) -> Future[list[Scaled | None]]:
            return thread.submit(_sent, load, device, stream)

        coming = [send(load) for load in loads[:1]]
        for at in range(len(loads)):
            sent = coming.pop().result()
            coming += [send(load) for load in loads[at + 1 : at + 2]]
            if stream is not None:
                _receive(sent, stream)
            yield _decomposed(sent)


def _sent(
    load: Load, device: torch.device, stream: torch.cuda.Stream | None
) -> list[Scaled | None]:
    here: AbstractContextManager[object] = nullcontext()
    if stream is not None:
        here = torch.cuda.stream(stream)
    with here:
        return [_usable(weight, device) for weight in load()]


def _usable(weight_MN: torch.Tensor, device: torch.device) -> Scaled | None:
    try:
        found = scaled(weight_MN, device)
    except (NonFinite, *PASSING):
        return None
    return None if found.exponent is None else found


def _receive(sent: Sequence[Scaled | None], stream: torch.cuda.Stream) -> None:
    """What is computed from here on waits for what was sent, and its memory is not given away
    before that."""
    current = torch.cuda.current_stream(stream.device)
    current.wait_stream(stream)
    for found in sent:
        if found is not None:
            found.matrix.record_stream(current)


def _decomposed(sent: Sequence[Scaled | None]) -> list[Prepared | None]:
    usable = {i: found for i, found in enumerate(sent) if found is not None}
    drivers: dict[int, GramEigh] = {}
    if usable:
        tall = [found.tall for found in usable.values()]
        try:
            drivers = dict(zip(usable, gram_eigh_together(tall, tall[0].dtype), strict=True))
        except PASSING:
            drivers = {}  # each alone then, and on the CPU what does not fit
    return [None if f is None else Prepared(f, drivers.get(i)) for i, f in enumerate(sent)]
