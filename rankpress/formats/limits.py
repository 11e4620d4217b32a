"""What a file may ask of the process that looks at it."""

from dataclasses import dataclass

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of the cheap checks. Crossing one of the `max_` bounds is `PayloadTooLarge`; a file
    whose tensors are far larger than its bytes is `TooLargeInside`."""

    # The largest public models have 91,000 tensors, whose index is 9 MB. What the most hostile
    # file takes of memory under these was measured: see docs/file-format.md.
    max_header_bytes: int = 32 * MIB  # safetensors header, pickle, JSON index, zip directory
    max_tensors: int = 200_000
    max_opcodes: int = 3_000_000  # of one pickle: bounds the objects that it can make
    max_members: int = 10_000_000  # of a zip or tar
    # Tensors may be larger than the file's bytes: a broadcast mask is honest, 40 GB out of 1.6 KB
    # is not. Allowed are `free_expansion_bytes`, or `max_expansion` times the file.
    max_expansion: int = 4
    free_expansion_bytes: int = 64 * MIB
    # The same for arrays in an .npz, which may be deflated (deflate's own bound is 1032 to 1).
    max_inflation: int = 50
    free_inflation_bytes: int = 1 * GIB
