"""The worker process starts in a second and never touches CUDA: compute is its children's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.end_to_end.processes import ROOT


@pytest.mark.parametrize("heavy", ["torch", "scipy", "onnxruntime", "torchmetrics"])
def test_the_worker_process_imports_nothing_heavy(heavy: str) -> None:
    code = f"import sys, worker.jobs.service; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
