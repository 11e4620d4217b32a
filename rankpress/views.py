"""How a stored tensor is read as matrices, by its header alone: nothing here needs its values.

The worker builds on these and adds what multiplies and reshapes; `rankpress inspect` prints them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rankpress.formats import dtypes
from rankpress.names import Kind, Reason

MAX_DIMENSIONS = 5
# A 3-D tensor is a 1-D convolution [out, in, kernel] or a stack of experts [E, m, n]. Stacks are
# recognised by their name, or by a last side longer than kernels are and a first side shorter than
# both others; read wrongly, a tensor is still multiplied back exactly, only less is saved.
EXPERT_HINTS = ("expert", "moe")
LONGEST_KERNEL = 31


@dataclass(frozen=True, kw_only=True)
class View:
    """A tensor of `shape` as `count` matrices of `m` rows and `n` columns."""

    kind: Kind
    shape: tuple[int, ...]
    m: int
    n: int
    count: int = 1

    @property
    def full_rank(self) -> int:
        return min(self.m, self.n)

    @property
    def break_even_rank(self) -> int:
        return break_even_rank(self.m, self.n)


def break_even_rank(m: int, n: int) -> int:
    """Largest k whose factors hold fewer numbers than the matrix: k (m + n) < m n. May be 0."""
    return (m * n - 1) // (m + n) if m and n else 0


def candidate_views(name: str, shape: tuple[int, ...]) -> tuple[View, ...]:
    """Every view worth trying, the one that the rules are defined on first.

    Empty where there is none: fewer than two dimensions, more than five, no elements, or a
    convolution with one input channel a group.
    """
    if not 2 <= len(shape) <= MAX_DIMENSIONS or 0 in shape:
        return ()
    if len(shape) == 2:
        return (View(kind=Kind.MATRIX, shape=shape, m=shape[0], n=shape[1]),)
    if is_expert_stack(name, shape):
        count, m, n = shape
        return (View(kind=Kind.EXPERTS, shape=shape, m=m, n=n, count=count),)
    if is_depthwise(name, shape):
        return ()
    out, into, *kernel = shape
    plain = View(kind=Kind.CONVOLUTION, shape=shape, m=out, n=into * math.prod(kernel))
    if len(kernel) == 2 and min(kernel) > 1:
        kh, kw = kernel
        spatial = View(kind=Kind.CONVOLUTION_SPATIAL, shape=shape, m=out * kh, n=into * kw)
        return plain, spatial
    return (plain,)


def reason_against(name: str, dtype: str, shape: tuple[int, ...]) -> Reason | None:
    """Why a tensor of this header cannot be factorised, or None. What it is called plays no part,
    except that it tells stacks of experts from 1-D convolutions."""
    if (reason := dtypes.passthrough(dtype)) is not None:
        return reason
    if 0 in shape:
        return Reason.ZERO_SIZE
    if len(shape) < 2:
        return Reason.NOT_A_MATRIX
    if len(shape) > MAX_DIMENSIONS:
        return Reason.TOO_MANY_DIMENSIONS
    if is_depthwise(name, shape):
        return Reason.DEPTHWISE
    return None


def is_expert_stack(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is read as one matrix for each expert: see EXPERT_HINTS."""
    if len(shape) != 3:
        return False
    if any(hint in name.lower() for hint in EXPERT_HINTS):
        return True
    count, m, n = shape
    return n > LONGEST_KERNEL and count < min(m, n)


def is_depthwise(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a convolution kernel has one input channel a group: [out, 1, *kernel]."""
    return len(shape) >= 3 and shape[1] == 1 and not is_expert_stack(name, shape)
