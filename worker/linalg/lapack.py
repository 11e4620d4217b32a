"""The LAPACK and BLAS routines of a partial symmetric eigendecomposition, on numpy arrays.

torch has the whole decomposition only. These are the parts, so that the tridiagonal form is made
once, the eigenvalues alone are read from it, and vectors are computed for the wanted ones alone.
scipy publishes the routines' addresses for Cython; calling them through ctypes releases the GIL,
which its own wrappers do not. Matrices are Fortran-ordered; symmetric ones hold the lower triangle.

The routines run on one thread each; products of large matrices are cut into tiles, and idle threads
take some (worker.linalg.parallel). The tridiagonal form is bound by memory, so a second thread
gains little; and threads that wait by spinning, beside torch's own and another worker's, were
measured to cost 4 to 28 times the processor time on a busy machine.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import scipy.linalg.cython_blas
import scipy.linalg.cython_lapack
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from worker.linalg.parallel import spread

Array = NDArray[Any]  # float32 or float64, the same for all arrays of a call
BLOCK = 64  # columns a blocked routine works on at once, for its workspace
TILE = 512  # side of a product that one thread computes; by shape alone, never by threads
_limited, _limiting = threading.Event(), threading.Lock()


class LapackError(ArithmeticError):
    """A routine did not converge, or was given what it cannot take."""


@cache
def available() -> bool:
    """Whether scipy's routines take 32-bit integers, as this module passes them."""
    try:
        return b"int *" in _capsule_name("dsytrd") and b"long" not in _capsule_name("dsytrd")
    except KeyError:
        return False


def add_gram(gram: Array, rows: Array, *, transpose: bool) -> None:
    """Adds to the lower triangle of `gram`: rows^T rows, or rows rows^T when `transpose`.

    `rows` is C-contiguous, read as its Fortran-ordered transpose without a copy. A large triangle
    is cut into tiles, which idle threads take.
    """
    side = gram.shape[0]
    starts = range(0, side, TILE)
    spread(
        [
            partial(_add_tile, gram, rows, transpose, i, j)
            for i in starts
            for j in starts[: i // TILE + 1]
        ]
    )


def _add_tile(gram: Array, rows: Array, transpose: bool, i: int, j: int) -> None:
    """Rows i.. and columns j.. of the Gram matrix, at most TILE of each."""
    x, y = (rows[at : at + TILE] if transpose else rows[:, at : at + TILE] for at in (i, j))
    (height, width), depth = (x.shape[0], y.shape[0]), x.shape[1]
    if not transpose:
        (height, width), depth = (x.shape[1], y.shape[1]), x.shape[0]
    one, lead, side = gram.dtype.type(1), rows.shape[1], gram.shape[0]
    how, other = ("T", "N") if transpose else ("N", "T")
    tile = gram[i:, j:]
    if i == j:
        _call("syrk", gram.dtype, "L", how, height, depth, one, x, lead, one, tile, side)
    else:
        _call(
            "gemm", gram.dtype, how, other, height, width, depth,
            one, x, lead, y, lead, one, tile, side,
        )  # fmt: skip


def tridiagonalise(a: Array) -> tuple[Array, Array, Array]:
    """a = Q T Q^T: (diagonal, subdiagonal, tau); `a` is overwritten with the reflectors of Q."""
    n = a.shape[0]
    d, e, tau = (np.empty(max(size, 1), a.dtype) for size in (n, n - 1, n - 1))
    work = np.empty(max(n * BLOCK, 1), a.dtype)
    _checked("sytrd", a.dtype, "L", n, a, n, d, e, tau, work, work.size)
    return d, e, tau


def eigenvalues(d: Array, e: Array) -> Array:
    """Eigenvalues of the tridiagonal (d, e), ascending."""
    d, e = d.copy(), e.copy()
    _checked("sterf", d.dtype, d.size, d, e)
    return d


def eigenvectors(d: Array, e: Array) -> tuple[Array, Array]:
    """(eigenvalues ascending, eigenvectors as columns) of the tridiagonal, divide and conquer."""
    n = d.size
    d, e = d.copy(), e.copy()
    z = np.empty((n, n), d.dtype, order="F")
    work = np.empty(1 + 4 * n + n * n, d.dtype)
    integers = np.empty(3 + 5 * n, np.int32)
    _checked("stedc", d.dtype, "I", n, d, e, z, n, work, work.size, integers, integers.size)
    return d, z


def rotate_back(a: Array, tau: Array, z: Array) -> Array:
    """Q z, with Q the reflectors that `tridiagonalise` left in `a`. `z` is overwritten.

    Many columns are cut into tiles, which idle threads take.
    """
    step = TILE // 2
    spread([partial(_rotate, a, tau, z[:, at : at + step]) for at in range(0, z.shape[1], step)])
    return z


def _rotate(a: Array, tau: Array, z: Array) -> None:
    n, k = z.shape
    work = np.empty(max(k, n) * BLOCK + 65 * BLOCK, a.dtype)
    _checked("ormtr", a.dtype, "L", "L", "N", n, k, a, n, tau, z, n, work, work.size)


def _checked(name: str, dtype: np.dtype[Any], *arguments: object) -> None:
    info = ctypes.c_int(0)
    _call(name, dtype, *arguments, info)
    if info.value != 0:
        raise LapackError(f"{name}: info {info.value}")


def _call(name: str, dtype: np.dtype[Any], *arguments: object) -> None:
    """Calls a Fortran routine: everything by address. Arrays are used in place."""
    use_one_thread()
    _routine(("s" if dtype == np.float32 else "d") + name)(*(_address(a) for a in arguments))


def _address(argument: object) -> object:
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, str):
        return ctypes.c_char_p(argument.encode("ascii"))
    if isinstance(argument, int):
        return ctypes.pointer(ctypes.c_int(argument))
    if isinstance(argument, np.float32):
        return ctypes.pointer(ctypes.c_float(float(argument)))
    if isinstance(argument, np.float64):
        return ctypes.pointer(ctypes.c_double(float(argument)))
    assert isinstance(argument, ctypes.c_int)
    return ctypes.pointer(argument)


def use_one_thread() -> None:
    """For scipy's library, once and for good in this process and those forked from it; torch has
    threads of its own.

    Never while another thread is inside the library: there the limit changes what that one
    computes. So the compute processes' server calls it before the first fork, and whoever comes
    first, elsewhere, does it alone.
    """
    if not _limited.is_set():
        with _limiting:
            if not _limited.is_set():
                ThreadpoolController().select(internal_api="openblas").limit(limits=1)
                _limited.set()


@cache
def _routine(name: str) -> Callable[..., None]:
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    return ctypes.CFUNCTYPE(None)(pointer(_capsule(name), _capsule_name(name)))


def _capsule_name(name: str) -> bytes:
    """The routine's C signature."""
    signature = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
        ("PyCapsule_GetName", ctypes.pythonapi)
    )
    return bytes(signature(_capsule(name)))


def _capsule(name: str) -> object:
    is_blas = name.endswith(("syrk", "gemm"))
    module = scipy.linalg.cython_blas if is_blas else scipy.linalg.cython_lapack
    return module.__pyx_capi__[name]
