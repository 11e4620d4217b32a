"""ONNX Runtime: a checked graph and its weights in memory, never a path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from rankpress.errors import EvaluationMismatch

Array = NDArray[Any]
_MAX_TOLD = 3


def providers(device: torch.device) -> list[str]:
    """CUDA when it is asked for and there, else the CPU."""
    available = runtime().get_available_providers()
    cuda = device.type == "cuda" and "CUDAExecutionProvider" in available
    return ["CUDAExecutionProvider"] * cuda + ["CPUExecutionProvider"]


def runtime() -> Any:
    """The module, imported where it is first needed: official builds send telemetry by default,
    and read the switch when they are imported."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


class Session:
    """A graph with its weights bound, ready to run."""

    def __init__(
        self,
        model: ModelProto,
        weights: Mapping[str, Array],
        device: torch.device,
        *,
        profile: Path | None = None,
        noun: str = "template",
    ) -> None:
        """With `profile`, the beginning of a file's name, each node's time is noted, and every
        node stays what it is in the graph."""
        self._noun = noun
        ort = runtime()
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what is wrong comes as an exception
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Packing a copy of each weight makes loading several times slower.
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._weights = dict(weights)  # the runtime maps these arrays and does not keep them alive
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in self._weights.values()]
        self._values = values
        options.add_external_initializers(list(self._weights), values)
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=providers(device)
            )
        except _errors() as error:
            raise EvaluationMismatch(
                f"ONNX Runtime does not load the {noun} ({type(error).__name__}): its operators, "
                "shapes or types do not fit together, or it needs more memory than a job may take."
            ) from error
        self.device = (
            "cuda" if self._session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
        )

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """Raises EvaluationMismatch when the graph fails on these inputs."""
        try:
            found = self._session.run(list(outputs), dict(inputs))
        except _errors() as error:
            shapes = ", ".join(
                f"{name} {array.dtype} {list(array.shape)}"
                for name, array in list(inputs.items())[:_MAX_TOLD]
            )
            raise EvaluationMismatch(
                f"The {self._noun} cannot be run on the validation data ({type(error).__name__}; "
                f"{shapes}). Usual causes: an index beyond an embedding's rows, a size that the "
                "export fixed, or more memory than a job may take."
            ) from error
        return [np.asarray(array) for array in found]

    def end_profile(self) -> Path:
        """The file of a session that was made with `profile`."""
        return Path(self._session.end_profiling())


def _errors() -> tuple[type[Exception], ...]:
    """Every class of error of the runtime; they share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [c for c in vars(state).values() if isinstance(c, type) and issubclass(c, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError, TypeError)
