"""Which stored tensors are matrices of real numbers, by their header alone."""

from __future__ import annotations

from rankpress import views
from rankpress.names import Kind, Reason
from worker.tensors import StoredTensor


def reason_against(tensor: StoredTensor) -> Reason | None:
    """Why a tensor cannot be factorised, or None."""
    if tensor.passthrough is not None:
        return tensor.passthrough
    if tensor.alias_of is not None:
        return Reason.TIED
    return views.reason_against(tensor.name, tensor.dtype, tensor.shape)


def tensor_kind(tensor: StoredTensor) -> Kind:
    """The kind of the view that the rules are defined on; `other` where there is none."""
    found = views.candidate_views(tensor.name, tensor.shape)
    return found[0].kind if found else Kind.OTHER
