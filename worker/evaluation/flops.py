"""Floating-point operations of one sample through a torch network, by torch's own counter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from worker.evaluation.architecture import Network


def count_by_running(network: Network, sample: Mapping[str, torch.Tensor]) -> int:
    """Matrix products and convolutions, a multiplication and an addition counting two; biases,
    activations and norms are left out, as is usual."""
    with FlopCounterMode(display=False) as counter:
        network(sample)
    return int(counter.get_total_flops())
