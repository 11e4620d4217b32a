"""Token models: which tokens are scored, and against what."""

from __future__ import annotations

import torch

from rankpress.names import Task
from worker.evaluation.data import Batch
from worker.evaluation.targets import IGNORE_INDEX

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"


def next_tokens(task: Task, batch: Batch) -> torch.Tensor | None:
    """The batch's targets; for a language model without them, the following token of each.

    The last token has none, nor has one whose follower is padding (attention_mask 0).
    """
    if batch.targets is not None or task is not Task.LANGUAGE_MODELLING:
        return batch.targets
    ids_BT = batch.inputs[INPUT_IDS].to(torch.int64)
    target_BT = torch.full_like(ids_BT, IGNORE_INDEX)
    target_BT[:, :-1] = ids_BT[:, 1:]
    mask_BT = batch.inputs.get(ATTENTION_MASK)
    if mask_BT is not None:
        target_BT[:, :-1][mask_BT[:, 1:] == 0] = IGNORE_INDEX
    return target_BT


def token_mask(task: Task, batch: Batch, device: torch.device) -> torch.Tensor | None:
    """[B, T], 0 at padding; None where the model takes no mask or is scored by the sample."""
    if task not in (Task.LANGUAGE_MODELLING, Task.FIDELITY):
        return None
    mask = batch.inputs.get(ATTENTION_MASK)
    return None if mask is None else mask.to(device)
