"""A torch checkpoint: the description of its pickle (never executed), and its storages, mapped."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from rankpress.errors import CorruptFile, UnsupportedFormat
from rankpress.formats import candidates, dtypes, torch_legacy, torch_zip, zips
from rankpress.formats.described import Described, Layout
from rankpress.formats.limits import Limits
from rankpress.formats.nodes import Value, mapping_of, walk
from rankpress.formats.safetensors import clip
from rankpress.formats.torch_contents import Contents
from rankpress.names import FileFormat, Reason
from rankpress.schemas.manifest import METADATA_KEY
from worker.checkpoint.mapped import Window
from worker.checkpoint.stored import passthrough
from worker.tensors import StoredTensor, dtype_of

METADATA_RECORD = "extra/metadata.json"


class TorchCheckpoint:
    """The tensors of one mapping inside the file; the rest of it is kept for writing."""

    original: Path | None = None  # the file that holds this checkpoint and nothing else

    def __init__(self, window: Window, kind: FileFormat, weights_path: str | None, limits: Limits):
        self.format = kind
        self.metadata: dict[str, str] = {}
        size = window.size
        with window.open() as file:
            if kind is FileFormat.TORCH_LEGACY:
                self.contents, self._offsets = torch_legacy.read_contents(file, size, limits)
            else:
                members = zips.read_directory(file, size, limits)
                self.contents = torch_zip.read_contents(file, size, members, limits)
                self._offsets = torch_zip.storage_offsets(file, size, members)
                self.metadata = _metadata(
                    torch_zip.read_record(file, members, METADATA_RECORD, limits),
                    torch_zip.read_record(file, members, torch_zip.MANIFEST_RECORD, limits),
                )
        self.chosen = candidates.choose(self.contents.root, self.contents.candidates, weights_path)
        self.weights_path = self.chosen.path
        self.tensors = _stored(self.chosen.tensors)
        self.notes = _notes(self.contents, self.chosen)
        self._file = window

    def tensor(self, name: str) -> torch.Tensor:
        """Mapped, with the strides of the file. Raises `UnsupportedFormat` for tensors that are
        more than a block of numbers (quantised, sparse, ...): they can only be kept as they are."""
        found = self.chosen.tensors[name]
        if found.layout is Layout.META:
            return torch.empty(found.shape, dtype=dtype_of(found.dtype), device="meta")
        if found.layout is not Layout.STRIDED:
            raise UnsupportedFormat(
                f"tensor {clip(name)} is {found.layout} ({found.call.function.name}): its values "
                "cannot be read apart from its file, only kept as they are"
            )
        return self._strided(found)

    def holders(self) -> list[Value]:
        """The values of the pickle that hold the chosen mapping: a dict is its own."""
        mapping = self.chosen.mapping
        return [v for _, v in walk(self.contents.root) if mapping_of(v) is mapping]

    def storage_octets(self, key: str) -> torch.Tensor:
        """The bytes of a whole storage, flat."""
        return self._file.octets(*self._offsets[key])

    def _strided(self, found: Described) -> torch.Tensor:
        storage = found.storage
        if storage is None:
            raise CorruptFile("a tensor without a storage")
        kind = dtype_of(found.dtype)
        if not found.extent:
            return self._file.vector(0, 0, found.dtype).reshape(found.shape)
        start = found.offset * kind.itemsize
        if storage.view is not None:
            start += storage.view[1] * dtypes.nbytes(storage.dtype, (1,))
        length = (found.extent - found.offset) * kind.itemsize
        at, _ = self._offsets[storage.key]
        vector = self._file.vector(at + start, length, found.dtype)
        return torch.as_strided(vector, found.shape, found.stride)

    def close(self) -> None:
        self._file.close()


def _metadata(kept: bytes | None, manifest: bytes | None) -> dict[str, str]:
    """What a written archive keeps of safetensors metadata. Foreign records are left alone."""
    found: dict[str, str] = {}
    if kept is not None:
        try:
            document = json.loads(kept)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            found = {k: v for k, v in document.items() if isinstance(v, str)}
    if manifest is not None:
        found[METADATA_KEY] = manifest.decode("utf-8", "replace")
    return found


def _stored(tensors: dict[str, Described]) -> tuple[StoredTensor, ...]:
    first: dict[object, str] = {}
    found: list[StoredTensor] = []
    for name, tensor in tensors.items():
        alias = None
        if tensor.storage is not None and tensor.nbytes:
            window = (
                tensor.storage.key,
                tensor.storage.view,
                tensor.dtype,
                tensor.offset,
                tensor.shape,
                tensor.stride,
            )
            holder = first.setdefault(window, name)
            alias = holder if holder != name else None
        reason = passthrough(name, tensor.dtype)
        if reason is not Reason.OPTIMIZER_STATE:
            reason = tensor.passthrough
        found.append(
            StoredTensor(
                name=name,
                dtype=tensor.dtype,
                shape=tensor.shape,
                nbytes=tensor.nbytes,
                alias_of=alias,
                passthrough=reason,
            )
        )
    return tuple(found)


def _notes(contents: Contents, chosen: candidates.Candidate) -> tuple[str, ...]:
    notes: list[str] = []
    if chosen.path is not None:
        notes.append(f"the weights were found at {chosen.path!r}")
    optimizer = sum(len(c.tensors) for c in contents.candidates if c.in_optimizer)
    if optimizer:
        notes.append(
            f"{optimizer} tensors of optimizer state lie beside the weights; they are never "
            "factorised"
        )
    others = [
        c.label
        for c in contents.candidates
        if not c.in_optimizer and c.mapping is not chosen.mapping
    ]
    if others:
        notes.append(f"other tensors, kept as they are, lie at {', '.join(others[:20])}")
    entries = [
        str(key)
        for key, value in (mapping_of(contents.root) or {}).items()
        if mapping_of(value) is None and chosen.path is not None
    ]
    if entries:
        notes.append(f"other entries of the checkpoint: {', '.join(entries[:20])}")
    return tuple(notes)
