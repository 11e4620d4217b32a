"""What is said of a tensor by its name and type alone."""

from __future__ import annotations

from rankpress.formats import dtypes
from rankpress.names import Reason

# What optimizers call what they keep of each parameter, when it lies among the weights.
_OPTIMIZER_SUFFIXES = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
    "square_avg",
    "acc_delta",
    "grad_avg",
)


def passthrough(name: str, dtype: str) -> Reason | None:
    """Why a tensor is no candidate, as far as its file says."""
    if name.rsplit(".", 1)[-1] in _OPTIMIZER_SUFFIXES or name.startswith("optimizer."):
        return Reason.OPTIMIZER_STATE
    return dtypes.passthrough(dtype)
