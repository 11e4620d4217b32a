"""Writing a torch archive: the value that came in with its weights replaced, as torch.save lays
it out, but with fixed times and without a random id: the same input gives the same bytes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import torch

from rankpress.formats import dtypes
from rankpress.formats.candidates import without_optimizer
from rankpress.formats.described import Described, Layout
from rankpress.formats.nodes import Call, Global, Storage, Value
from rankpress.formats.torch_contents import storage_bytes
from rankpress.formats.torch_zip import MANIFEST_RECORD
from rankpress.schemas.manifest import METADATA_KEY, Manifest
from worker.checkpoint.files import octets, write_octets
from worker.checkpoint.pickling import ORDERED_DICT, dumps
from worker.checkpoint.torch_in import METADATA_RECORD, TorchCheckpoint
from worker.tensors import Checkpoint, OutputTensor

_PREFIX = "archive"
_ALIGN = 64
_LOCAL_HEADER = 30
_ZIP64_EXTRA = 20
_ZIP64_FROM = 2**31 - 1
_PADDING = 0x4246  # "FB": the extra field that torch pads with
_V2 = Global("torch._utils", "_rebuild_tensor_v2")
_V3 = Global("torch._utils", "_rebuild_tensor_v3")


@dataclass(frozen=True)
class _Record:
    name: str
    nbytes: int
    load: Callable[[], torch.Tensor]


class _New(Storage):
    """A storage that the input does not have, so that no key of the input can be taken for it."""


@dataclass
class _Plan:
    """Storages by what they were called while planning, each with its number in the file."""

    records: dict[object, _Record] = field(default_factory=dict)
    loads: dict[str, tuple[int, Callable[[], torch.Tensor]]] = field(default_factory=dict)

    def add(self, key: str, output: OutputTensor, load: Callable[[], torch.Tensor]) -> Call:
        """A contiguous tensor on a storage of its own."""
        nbytes = dtypes.nbytes(output.dtype, output.shape)
        self.loads.setdefault(key, (nbytes, load))
        typed = output.dtype in dtypes.TO_STORAGES
        numel = nbytes * 8 // dtypes.BITS[output.dtype] if typed else nbytes
        storage = _New(
            key=key,
            dtype=output.dtype if typed else "uint8",
            numel=numel,
            location="cpu",
            typed=typed,
        )
        args = (storage, 0, output.shape, _strides(output.shape), False, Call(ORDERED_DICT, ()))
        if typed:
            return Call(_V2, args)
        return Call(_V3, (*args, Global("torch", output.dtype)))


def write_torch(
    file: IO[bytes],
    source: Checkpoint,
    outputs: Sequence[OutputTensor],
    metadata: Mapping[str, str],
    manifest: Manifest | None,
    *,
    drop_optimizer: bool = False,
) -> None:
    plan = _Plan()
    if isinstance(source, TorchCheckpoint):
        root, replace = _nested(source, outputs, plan, drop_optimizer=drop_optimizer)
    else:
        root = {o.name: plan.add(f"new {o.source or o.name}", o, o.load) for o in outputs}
        replace = _Replace(plan, {}, None)
    pickled = dumps(root, replace)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        writer = _Archive(archive)
        writer.text("data.pkl", pickled)
        writer.text("byteorder", b"little")
        for record in plan.records.values():
            writer.tensor(record)
        writer.text("version", b"3\n")
        kept = {k: v for k, v in sorted(metadata.items()) if k != METADATA_KEY}
        if kept:
            writer.text(METADATA_RECORD, json.dumps(kept, ensure_ascii=False).encode())
        if manifest is not None:
            writer.text(MANIFEST_RECORD, manifest.model_dump_json().encode())


@dataclass
class _Replace:
    """What `dumps` asks for each value: numbers the storages in the order of their first use, and
    puts the new mapping where the old one was."""

    plan: _Plan
    swapped: dict[int, Value]  # id of a value of the input -> what takes its place
    source: TorchCheckpoint | None

    def __call__(self, value: Value) -> Value:
        if isinstance(value, Storage):
            return self._storage(value)
        return self.swapped.get(id(value), value)

    def _storage(self, storage: Storage) -> Storage:
        place = (type(storage), storage.key, storage.view)
        record = self.plan.records.get(place)
        if record is None:
            number = str(len(self.plan.records))
            new = isinstance(storage, _New)
            nbytes, load = self.plan.loads[storage.key] if new else self._of_input(storage)
            record = _Record(f"data/{number}", nbytes, load)
            self.plan.records[place] = record
        numel = storage.numel if storage.view is None else storage.view[2]
        return Storage(
            key=record.name.removeprefix("data/"),
            dtype=storage.dtype,
            numel=numel,
            location="cpu",
            typed=storage.typed,
        )

    def _of_input(self, storage: Storage) -> tuple[int, Callable[[], torch.Tensor]]:
        source = self.source
        if source is None:
            raise KeyError(storage.key)
        size = dtypes.nbytes(storage.dtype, (1,))
        first, count = (0, storage.numel) if storage.view is None else storage.view[1:]
        window = slice(first * size, (first + count) * size)
        return count * size, lambda: source.storage_octets(storage.key)[window]


def _nested(
    source: TorchCheckpoint,
    outputs: Sequence[OutputTensor],
    plan: _Plan,
    *,
    drop_optimizer: bool,
) -> tuple[Value, _Replace]:
    """The input's value, and what replaces its mapping of weights. Entries of that mapping that are
    no tensors follow the tensors."""
    chosen = source.chosen
    items: dict[object, Value] = {}
    for output in outputs:
        found = chosen.tensors.get(output.source) if output.source is not None else None
        if found is None or output.source is None:
            items[output.name] = plan.add(f"new {output.name}", output, output.load)
        elif kept_as_is(found):
            items[output.name] = chosen.mapping[output.source]
        else:
            items[output.name] = plan.add(_window(found), output, output.load)
    others = {k: v for k, v in chosen.mapping.items() if k not in chosen.tensors}
    if drop_optimizer:
        others = without_optimizer(others)
    items.update((key, value) for key, value in others.items() if key not in items)
    swapped: dict[int, Value] = {}
    for holder in source.holders():
        if type(holder) is Call:
            new = Call(holder.function, holder.args, new=holder.new)
            new.items, new.state, new.states = dict(items), holder.state, holder.states
            swapped[id(holder)] = new
        else:
            swapped[id(holder)] = items
    root = source.contents.root
    if drop_optimizer and type(root) is dict and id(root) not in swapped:
        swapped[id(root)] = without_optimizer(root)
    return root, _Replace(plan, swapped, source)


def kept_as_is(found: Described) -> bool:
    """Slices of larger storages are written by their own values; all else keeps its storage,
    strides and flags."""
    if found.layout is not Layout.STRIDED or found.storage is None:
        return True
    held = found.storage
    window = (
        storage_bytes(held) if held.view is None else held.view[2] * dtypes.BITS[held.dtype] // 8
    )
    return window <= found.nbytes


def _window(found: Described) -> str:
    """Equal for tied tensors."""
    held = found.storage
    place = None if held is None else (held.key, held.view)
    return f"window {place} {found.offset} {found.shape} {found.stride} {found.dtype}"


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a contiguous tensor, in elements."""
    strides: list[int] = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


class _Archive:
    """Stored members whose bytes lie on multiples of 64, as torch writes and maps them."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def text(self, name: str, data: bytes) -> None:
        with self._open(name, len(data)) as member:
            member.write(data)

    def tensor(self, record: _Record) -> None:
        with self._open(record.name, record.nbytes) as member:
            write_octets(member, octets(record.load()), record.nbytes, record.name)

    def _open(self, name: str, nbytes: int) -> IO[bytes]:
        full = f"{_PREFIX}/{name}"
        info = zipfile.ZipInfo(full, date_time=(1980, 1, 1, 0, 0, 0))
        info.create_system = 0
        large = nbytes >= _ZIP64_FROM
        info.file_size = nbytes
        end = self._archive.start_dir + _LOCAL_HEADER + len(full.encode())
        end += 4 + (_ZIP64_EXTRA if large else 0)
        padding = -end % _ALIGN
        info.extra = _PADDING.to_bytes(2, "little") + padding.to_bytes(2, "little") + b"Z" * padding
        return self._archive.open(info, "w", force_zip64=large)
