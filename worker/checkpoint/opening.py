"""Opening a checkpoint: the cheap checks again, then the reader of its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rankpress.errors import InvalidFile, InvalidRequest, UnsupportedFormat
from rankpress.formats import FileFacts, Limits, ShardIndex, archives, inspect_file, shards, zips
from rankpress.formats.candidates import TOP
from rankpress.formats.safetensors import clip
from rankpress.names import FileFormat
from worker.checkpoint.mapped import MappedFile, Window
from worker.checkpoint.safetensors_in import SafetensorsCheckpoint
from worker.checkpoint.sharded import Shard, ShardedCheckpoint
from worker.checkpoint.torch_in import TorchCheckpoint
from worker.tensors import Checkpoint

if TYPE_CHECKING:
    from worker.checkpoint.onnx_in import OnnxCheckpoint

_TORCH = (FileFormat.TORCH, FileFormat.TORCH_LEGACY)
_ARCHIVES = (FileFormat.TAR, FileFormat.ZIP)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One file of a sharded checkpoint."""

    name: str | None
    window: Window
    facts: FileFacts


def open_checkpoint(
    paths: Sequence[Path],
    *,
    weights_path: str | None = None,
    names: Sequence[str | None] = (),
    limits: Limits | None = None,
) -> Checkpoint:
    """One file, or the shards of one checkpoint and their index (`names` are what the index calls
    them; a shard without a name is known by the tensors in it). `weights_path` names the mapping
    to take from a nested checkpoint, `.` the top level.

    Raises the subclasses of `InvalidFile`, and `InvalidRequest` at `/weights_path`.
    """
    limits = limits or Limits()
    if len(paths) > 1:
        _only_nested(weights_path)
        named = [*names, *[None] * (len(paths) - len(names))]
        parts = [
            _part(name, MappedFile(path).whole(), limits)
            for name, path in zip(named, paths, strict=True)
        ]
        return _sharded(parts, limits)
    (path,) = paths
    file = MappedFile(path)
    part = _part(None, file.whole(), limits)
    if part.facts.format in _ARCHIVES:
        _only_nested(weights_path)
        found = [
            _part(p.name, file.window(p.offset, p.size), limits)
            for p in _members(part, part.facts.format, limits)
        ]
        if len(found) == 1:
            return _open(found[0], None, limits)
        sharded = _sharded(found, limits)
        sharded.original = path if part.facts.format is FileFormat.TAR else None
        return sharded
    if part.facts.format is FileFormat.ONNX:
        _only_nested(weights_path)
        model = _onnx(part.window, limits)
        model.original = path
        return model
    opened = _open(part, weights_path, limits)
    opened.original = path
    return opened


def _onnx(window: Window, limits: Limits) -> OnnxCheckpoint:
    """Imported here, so that other checkpoints need no ONNX."""
    from worker.checkpoint.onnx_in import OnnxCheckpoint

    return OnnxCheckpoint(window, limits)


def open_artifact(path: Path, source: Checkpoint, *, limits: Limits | None = None) -> Checkpoint:
    """What was written from `source`, with the weights where they were put."""
    limits = limits or Limits()
    window = MappedFile(path).whole()
    part = _part(None, window, limits)
    if part.facts.format in _TORCH and isinstance(source, TorchCheckpoint):
        return _open(part, source.weights_path or TOP, limits)
    return open_checkpoint([path], limits=limits)


def _part(name: str | None, window: Window, limits: Limits) -> _Part:
    with window.open() as file:
        return _Part(name=name, window=window, facts=inspect_file(file, window.size, limits=limits))


def _members(part: _Part, kind: FileFormat, limits: Limits) -> tuple[archives.Part, ...]:
    size = part.window.size
    with part.window.open() as file:
        if kind is FileFormat.TAR:
            return archives.tar_parts(file, size)
        return archives.zip_parts(file, size, zips.read_directory(file, size, limits))


def _open(part: _Part, weights_path: str | None, limits: Limits, *, ties: bool = True) -> Shard:
    kind = part.facts.format
    if kind in _TORCH:
        return TorchCheckpoint(part.window, kind, weights_path, limits)
    if kind is not FileFormat.SAFETENSORS:
        what = "the index of a sharded checkpoint alone" if part.facts.index else kind
        raise UnsupportedFormat(
            f"the model is {what}, which holds no weights to compress; send model.state_dict() "
            "saved with torch.save, or safetensors"
        )
    _only_nested(weights_path)
    return SafetensorsCheckpoint(part.window, limits, ties=ties)


def _only_nested(weights_path: str | None) -> None:
    if weights_path not in (None, TOP):
        raise InvalidRequest.at(
            "/weights_path", "the file is not nested: its tensors all lie at the top; leave it out"
        )


def _sharded(parts: Sequence[_Part], limits: Limits) -> ShardedCheckpoint:
    indices = [(part, part.facts.index) for part in parts if part.facts.index is not None]
    if len(indices) != 1:
        raise InvalidFile(
            f"{len(parts)} files with {len(indices)} indices were sent as one model; send the "
            "shards with their one index (model.safetensors.index.json)"
        )
    ((holder, index),) = indices
    opened = [(p, _open(p, None, limits, ties=False)) for p in parts if p is not holder]
    found: dict[str, Shard] = {}
    for part, shard in opened:
        name = _shard_name(part, shard, index)
        if name in found:
            raise InvalidFile(f"two of the files are the shard {clip(name)}")
        found[name] = shard
    shards.check_shards(
        index, {name: [t.name for t in shard.tensors] for name, shard in found.items()}
    )
    ordered = {name: found[name] for name in sorted(found)}
    suffix = (
        "safetensors" if all(p.facts.format is FileFormat.SAFETENSORS for p, _ in opened) else "bin"
    )
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    return ShardedCheckpoint(ordered, index, holder.name or f"{stem}.{suffix}.index.json")


def _shard_name(part: _Part, shard: Shard, index: ShardIndex) -> str:
    """The file's own name; for one without, the shard whose tensors these are."""
    if part.name is not None:
        return part.name
    held = {tensor.name for tensor in shard.tensors}
    for file in index.files:
        if held == {name for name, place in index.weight_map.items() if place == file}:
            return file
    return f"(without a name, with {', '.join(clip(n) for n in sorted(held)[:3])})"
