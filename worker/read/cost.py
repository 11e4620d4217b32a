"""What a decomposition costs, roughly, to cut a job into steps of about five seconds."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from worker.read.matrix_view import MatrixView
from worker.tensors import StoredTensor, dtype_of

STEP_SECONDS = 5.0
GROUP_BYTES = 384 * 1024**2
# Fitted to one core of a 2.6 GHz server CPU, float32, for sides from 384 to 2048.
SECONDS_PER_PRODUCT = 2.5e-11  # times m n r: Gram matrix, projection, measured error
SECONDS_PER_EIGEN = 7e-11  # times r^3: tridiagonal form, vectors
SECONDS_PER_LAYER = 2e-3  # reading, writing, small change


def estimated_seconds(view: MatrixView) -> float:
    """Expected seconds to decompose all matrices of a view on one core."""
    r = view.full_rank
    one = SECONDS_PER_PRODUCT * view.m * view.n * r + SECONDS_PER_EIGEN * r**3
    return view.count * (one + SECONDS_PER_LAYER)


def working_bytes(views: Sequence[MatrixView], tensor: StoredTensor) -> int:
    """Memory to decompose a tensor under all its views and write its factors, beyond the tensor.

    Of r^2 numbers each: the Gram matrix as its reflectors, in float32 and where that decides no
    rank in float64, too; vectors, workspace, rotated vectors. Of m n numbers at most: the factors
    projected, balanced, and as written; and the copy that a half precision is computed in. Of a
    stack of experts the decompositions are kept, the rest is used again.
    """
    itemsize = max(dtype_of(tensor.dtype).itemsize, 4)
    grams = 3 if itemsize == 4 else 1
    copies = 1 if itemsize * prod(tensor.shape) != tensor.nbytes else 0
    numbers = sum(
        view.count * (grams * view.full_rank**2 + copies * view.m * view.n)
        + 3 * view.full_rank**2
        + 3 * view.m * view.n
        for view in views
    )
    return itemsize * numbers


def grouped(
    costs: Sequence[tuple[str, float, int]],
    *,
    threads: int = 1,
    step_seconds: float = STEP_SECONDS,
) -> tuple[tuple[str, ...], ...]:
    """Consecutive names in groups, a durable step each, from (name, seconds, bytes of the tensor).

    A group takes `threads` threads about `step_seconds`, and holds at least a layer for each of
    them. Its factors, no more bytes than its tensors, are in memory until the group is written, so
    GROUP_BYTES ends it, too; a larger layer stands alone.
    """
    groups: list[tuple[str, ...]] = []
    names: list[str] = []
    total, size = 0.0, 0
    for name, seconds, nbytes in costs:
        long = total + seconds > step_seconds * threads and len(names) >= threads
        if names and (long or size + nbytes > GROUP_BYTES):
            groups.append(tuple(names))
            names, total, size = [], 0.0, 0
        names.append(name)
        total += seconds
        size += nbytes
    return (*groups, tuple(names)) if names else tuple(groups)
