"""Tridiagonal forms kept from job to job, so that another threshold costs no decomposition.

The form of a Gram matrix is the dear part of a decomposition and depends on nothing but the matrix.
It is kept under the SHA-256 of the matrix's numbers, in files of a folder that is bounded: those
used longest ago go first. A file that is cut, damaged or of another release is no file. What is
read is what was written, bit for bit, so results are the same with the cache and without.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

import rankpress
from worker.linalg.kept_folder import prune

Array = NDArray[Any]  # float32 or float64, the same for all arrays of a form
WORTH_KEEPING = 128  # side of a Gram matrix below which the form is as cheap as its file
LARGEST_SHARE = 4  # of the folder's bytes, that one file may take
_DIGEST_BYTES = 32
# Another release may round otherwise.
_RELEASES = f"{rankpress.__version__} {torch.__version__} {scipy.__version__}"


@dataclass(frozen=True, eq=False)
class Form:
    """A Gram matrix of side n as Q T Q^T, as worker.linalg.lapack.tridiagonalise left it:
    reflectors (n x n, Fortran order), diagonal (n), subdiagonal and tau (n - 1), one dtype."""

    reflectors: Array
    d: Array
    e: Array
    tau: Array

    @property
    def nbytes(self) -> int:
        return self.reflectors.nbytes + self.d.nbytes + self.e.nbytes + self.tau.nbytes


class Forms:
    """The forms of one caller, in a folder beside those of others; `max_bytes` is for all of them.
    Threads and processes may share a folder."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def prune(self) -> None:
        prune(self._folder.parent, self._max_bytes)

    def of(self, tall_PQ: torch.Tensor) -> Kept | None:
        """The place of this matrix's forms; None where they are not worth it."""
        rows, side = tall_PQ.shape
        if side < WORTH_KEEPING or tall_PQ.device.type != "cpu":
            return None
        # The same numbers in another order in memory are rounded in another order.
        turned = not tall_PQ.is_contiguous() and tall_PQ.T.is_contiguous()
        numbers = (tall_PQ.T if turned else tall_PQ).contiguous().numpy()
        digest = hashlib.sha256(f"{_RELEASES} {numbers.dtype} {rows} {side} {turned}".encode())
        digest.update(numbers.data.cast("B"))
        return Kept(self._folder / digest.hexdigest(), side, self._max_bytes)


@dataclass(frozen=True)
class Kept:
    """The forms of one matrix, one for each precision."""

    path: Path  # less precision and suffix
    side: int
    max_bytes: int

    def load(self, dtype: torch.dtype) -> Form | None:
        """The form in this precision, if it is here and whole."""
        path = self._file(dtype)
        try:
            content = bytearray(path.read_bytes())
            os.utime(path)
        except OSError:
            return None
        kind = np.dtype(np.float32 if dtype == torch.float32 else np.float64)
        form = _parsed(content, self.side, kind)
        if form is None:
            with contextlib.suppress(OSError):
                path.unlink()
        return form

    def keep(self, dtype: torch.dtype, form: Form) -> None:
        """Where there is room for it; a full or failing disk keeps nothing, and that is no error:
        the form will be computed again."""
        if form.nbytes > self.max_bytes // LARGEST_SHARE:
            return
        path = self._file(dtype)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < self.max_bytes + form.nbytes:
                return
            try:
                _write(part, form)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _file(self, dtype: torch.dtype) -> Path:
        return self.path.with_name(f"{self.path.name}-{str(dtype).removeprefix('torch.')}")


def _write(path: Path, form: Form) -> None:
    """The arrays, and the SHA-256 of their bytes."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for array in (form.d, form.e, form.tau, form.reflectors.T):
            piece = np.ascontiguousarray(array).data.cast("B")
            digest.update(piece)
            file.write(piece)
        file.write(digest.digest())


def _parsed(content: bytearray, side: int, dtype: np.dtype[Any]) -> Form | None:
    """The arrays of a file; None when it is not one."""
    numbers = memoryview(content)[:-_DIGEST_BYTES]
    sizes = (side, side - 1, side - 1, side * side)
    if len(numbers) != sum(sizes) * dtype.itemsize:
        return None
    if hashlib.sha256(numbers).digest() != content[-_DIGEST_BYTES:]:
        return None
    values = np.frombuffer(numbers, dtype)
    d, e, tau, reflectors = np.split(values, np.cumsum(sizes)[:-1])
    return Form(reflectors=reflectors.reshape(side, side).T, d=d, e=e, tau=tau)
