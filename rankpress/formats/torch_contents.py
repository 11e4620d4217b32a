"""What a torch checkpoint holds: its pickle's description, and its storages checked against it."""

from __future__ import annotations

from dataclasses import dataclass

from rankpress.errors import CorruptFile, TooLargeInside
from rankpress.formats import dtypes
from rankpress.formats.candidates import Candidate, find
from rankpress.formats.described import Described, described
from rankpress.formats.limits import Limits
from rankpress.formats.nodes import Call, Storage, Value, walk
from rankpress.formats.safetensors import clip


@dataclass(frozen=True, kw_only=True)
class Contents:
    root: Value
    storages: dict[str, Storage]  # by key, as first mentioned
    candidates: tuple[Candidate, ...]


def storage_bytes(storage: Storage) -> int:
    return dtypes.nbytes(storage.dtype, (storage.numel,))


def check_storages(root: Value, sizes: dict[str, int], file_size: int, limits: Limits) -> Contents:
    """`sizes` are the bytes that the file really has for each storage. Raises `CorruptFile` when a
    storage or a tensor reaches past them, `TooLargeInside` when the tensors' logical bytes are out
    of proportion to the file's."""
    storages: dict[str, Storage] = {}
    logical = 0
    seen: set[tuple[object, ...]] = set()
    for _, value in walk(root):
        if isinstance(value, Storage):
            _check_storage(storages.setdefault(value.key, value), value, sizes)
        elif type(value) is Call and (tensor := described(value)) is not None:
            if tensor.storage is not None:
                _check_bounds(tensor, tensor.storage)
            mark = (tensor.storage, tensor.offset, tensor.shape, tensor.stride)
            if tensor.storage is None or mark not in seen:
                seen.add(mark)
                logical += tensor.nbytes if tensor.storage is not None else 0
    allowed = max(limits.free_expansion_bytes, limits.max_expansion * file_size)
    if logical > allowed:
        raise TooLargeInside(
            f"the tensors of the file take {logical} bytes when written out, but the file has "
            f"{file_size}: they are expanded views of little data; allowed are {allowed} bytes. "
            "Send the tensors before .expand() or .broadcast_to()"
        )
    return Contents(root=root, storages=storages, candidates=find(root, limits))


def _check_storage(first: Storage, storage: Storage, sizes: dict[str, int]) -> None:
    available = sizes.get(storage.key)
    if available is None:
        raise CorruptFile(f"the file has no bytes for its storage {clip(storage.key)}")
    wanted = storage_bytes(storage)
    if wanted != available:
        raise CorruptFile(
            f"storage {clip(storage.key)} should have {wanted} bytes, and the file has {available}"
        )
    if storage_bytes(first) != wanted:
        raise CorruptFile(f"the pickle gives storage {clip(storage.key)} two sizes")


def _check_bounds(tensor: Described, storage: Storage) -> None:
    reach = dtypes.nbytes(tensor.dtype, (tensor.extent,))
    window = storage_bytes(storage)
    if storage.view is not None:
        _, first, count = storage.view
        window = dtypes.nbytes(storage.dtype, (count,))
        if first + count > storage.numel:
            raise CorruptFile(f"a window of storage {clip(storage.key)} reaches past its end")
    if reach > window:
        raise CorruptFile(
            f"a tensor of shape {list(tensor.shape)} reaches {reach} bytes into a storage of "
            f"{window} bytes"
        )
