"""Writing safetensors: the header from the declared shapes, then one tensor after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import IO

from rankpress.formats import dtypes
from rankpress.schemas.manifest import METADATA_KEY, Manifest
from worker.checkpoint.files import octets, write_octets
from worker.tensors import OutputTensor

_ALIGN = 8


def metadata_of(source: Mapping[str, str], manifest: Manifest | None) -> dict[str, str]:
    """What the input said of itself, `format: pt`, and the new manifest in place of an old one."""
    kept = {key: value for key, value in source.items() if key != METADATA_KEY}
    found = kept | {"format": "pt"}
    if manifest is not None:
        found[METADATA_KEY] = manifest.model_dump_json()
    return found


def write_safetensors(
    file: IO[bytes], outputs: Sequence[OutputTensor], metadata: Mapping[str, str]
) -> None:
    """Larger elements come first, as the safetensors library orders them, so that every tensor
    lies on a multiple of its element's size; otherwise the given order is kept."""
    ordered = sorted(outputs, key=lambda output: -dtypes.BITS[output.dtype])
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    sizes: list[int] = []
    at = 0
    for output in ordered:
        size = dtypes.nbytes(output.dtype, output.shape)
        header[output.name] = {
            "dtype": dtypes.TO_SAFETENSORS[output.dtype],
            "shape": list(_written_shape(output)),
            "data_offsets": [at, at + size],
        }
        sizes.append(size)
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGN)
    file.write(len(text).to_bytes(8, "little") + text)
    for output, size in zip(ordered, sizes, strict=True):
        write_octets(file, octets(output.load()), size, output.name)


def _written_shape(output: OutputTensor) -> tuple[int, ...]:
    """safetensors counts four-bit values one by one, torch by pairs."""
    if output.dtype == "float4_e2m1fn_x2":
        return (*output.shape[:-1], output.shape[-1] * 2)
    return output.shape
