"""What every compute process needs, imported once by the server that they are forked from."""

import torch

import worker.evaluation.metrics
import worker.pipeline
from worker.linalg.lapack import use_one_thread

use_one_thread()
# A forked process may use CUDA only if this one never did.
assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]

__all__ = ["torch", "worker"]
