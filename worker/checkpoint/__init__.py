"""Checkpoints in and out: every format that the service takes, one tensor at a time."""

from rankpress.formats.manifest import read_manifest
from worker.checkpoint.opening import open_artifact, open_checkpoint
from worker.checkpoint.writing import check_output, multiplied_back, write_checkpoint

__all__ = [
    "check_output",
    "multiplied_back",
    "open_artifact",
    "open_checkpoint",
    "read_manifest",
    "write_checkpoint",
]
