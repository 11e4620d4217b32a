"""The dense model, run once before anything is factorised: what does not fit shows here."""

from __future__ import annotations

from pathlib import Path

import torch

from worker.evaluation.data import read_batches
from worker.evaluation.plan import EvaluationPlan
from worker.evaluation.weights import Weights
from worker.tensors import Checkpoint


def verify_dense(
    plan: EvaluationPlan, dense: Checkpoint, validation: Path, device: torch.device
) -> None:
    """Runs the dense model on the samples that came with the architecture, where some did, then on
    one sample and on one batch of the data: a batch size that an export fixed out of sight fails on
    one of the two.

    `evaluate` would find all that too, but only after the factorisation. Raises EvaluationMismatch.
    """
    device = plan.architecture.runs_on(device)
    network = plan.architecture.build(Weights(dense), device)
    plan.architecture.check_dense(network)
    first = next(iter(read_batches(validation, plan.data)))
    with torch.inference_mode():
        for rows in (1, None):
            network({name: tensor[:rows].to(device) for name, tensor in first.inputs.items()})
