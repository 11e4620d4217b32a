"""What a small error of the model's output counts: its second derivative H, by a root of it.

The squared error of the output has the identity. Of logits z the softmax at temperature T may count
instead: KL(softmax(z / T) || softmax((z + d) / T)) = d^T H d / (2 T^2) + O(d^3) with
H = diag(p) - p p^T, p = softmax(z / T): the generalised Gauss-Newton or Fisher matrix of the
softmax (Martens, arXiv 1412.1193, section 9). An error that moves all logits alike then counts
nothing, and one that tells likely classes apart more than one between classes that are out of the
question.
"""

from __future__ import annotations

import torch

from rankpress.names import Sensitivity

TEMPERATURE = 2.0  # at 1 a network that is sure of its training images has hardly any H left


def rooted(v: torch.Tensor, output: torch.Tensor, sensitivity: Sensitivity) -> torch.Tensor:
    """R v with R R^T = H, along the last axis; both [..., C]. Of the softmax,
    R = diag(sqrt p) - p sqrt(p)^T."""
    if sensitivity is Sensitivity.OUTPUT:
        return v
    p = torch.softmax(output / TEMPERATURE, dim=-1)
    scaled = p.sqrt() * v
    return scaled - p * scaled.sum(dim=-1, keepdim=True)


def energy(change: torch.Tensor, output: torch.Tensor, sensitivity: Sensitivity) -> torch.Tensor:
    """d^T H d of a change d of the output, both [..., C]; the sum over all else."""
    if sensitivity is Sensitivity.OUTPUT:
        return change.square().sum()
    p = torch.softmax(output / TEMPERATURE, dim=-1)
    return ((p * change.square()).sum(dim=-1) - (p * change).sum(dim=-1).square()).sum()
