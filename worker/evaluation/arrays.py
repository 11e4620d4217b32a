"""The two kinds of validation file, read a batch at a time: `.safetensors` and `.npz`.

Neither runs code: safetensors holds no objects, and an `.npz` member that is a pickle is refused
by its header. A file of any size needs the memory of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from rankpress.errors import CorruptFile, UnsupportedFormat
from worker.evaluation.arrayfile import ArrayFile, ArrayInfo
from worker.evaluation.npz import NpzArrays

_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
}


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayFile]:
    """Told apart by content. Raises UnsupportedFormat, CorruptFile, UnsafePickle."""
    with path.open("rb") as file:
        head = file.read(16)
    with ExitStack() as stack:
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield stack.enter_context(NpzArrays.open(path))
        else:
            yield SafetensorsArrays(path, head)


class SafetensorsArrays:
    """Mapped by the safetensors library; a batch copies its own rows only."""

    def __init__(self, path: Path, head: bytes) -> None:
        self.arrays: Mapping[str, ArrayInfo]
        if not head:
            raise UnsupportedFormat("The validation file is empty; " + _EXPECTED)
        if head.startswith(b"\x93NUMPY"):
            raise UnsupportedFormat("The validation file is a single .npy array; " + _EXPECTED)
        try:
            self._file = cast(Any, safe_open(path, framework="pt"))
            names = [str(name) for name in self._file.keys()]  # noqa: SIM118  (it is no mapping)
            self.arrays = {name: self._info(name) for name in names}
        except SafetensorError as error:
            if head[8:9] == b"{":
                raise CorruptFile(
                    "The validation file begins as safetensors, but its header and its bytes do "
                    "not agree; it may be cut short. Send it again."
                ) from error
            raise UnsupportedFormat(
                f"The validation file begins with {head[:8].hex(' ')}, which is neither "
                f"safetensors nor npz; {_EXPECTED}"
            ) from error

    def _info(self, name: str) -> ArrayInfo:
        view = self._file.get_slice(name)
        dtype = str(view.get_dtype())
        return ArrayInfo(
            name=name,
            dtype=_SAFETENSORS_DTYPES.get(dtype, dtype),
            shape=tuple(int(d) for d in view.get_shape()),
        )

    def batches(self, names: Sequence[str], batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        views = {name: self._file.get_slice(name) for name in names}
        rows = min(self.arrays[name].shape[0] for name in names)
        for start in range(0, rows, batch_size):
            stop = min(start + batch_size, rows)
            yield {name: view[start:stop] for name, view in views.items()}


_EXPECTED = "send a .safetensors or an .npz file with the arrays 'inputs' and 'targets'."
