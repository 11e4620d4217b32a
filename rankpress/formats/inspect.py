"""The cheap checks, run by the API at upload and by the worker again: no torch, no numpy, and
nothing is read but headers."""

from __future__ import annotations

from typing import IO

from rankpress.errors import (
    AmbiguousCheckpoint,
    CorruptFile,
    InvalidFile,
    UnsafePickle,
    UnsupportedFormat,
)
from rankpress.formats import (
    archives,
    candidates,
    npz,
    onnx,
    safetensors,
    shards,
    sniff,
    torch_legacy,
    torch_zip,
    zips,
)
from rankpress.formats.binary import Cursor, Slice, read_at
from rankpress.formats.facts import FileFacts, ShardIndex
from rankpress.formats.limits import Limits
from rankpress.formats.safetensors import clip
from rankpress.formats.torch_contents import Contents
from rankpress.formats.unpickling import read_pickle
from rankpress.names import FileFormat
from rankpress.schemas.upload import TensorInfo


def inspect_file(file: IO[bytes], size: int, *, limits: Limits | None = None) -> FileFacts:
    """What the file is, by its content. `file` is seekable and may be remote.

    Raises `UnsupportedFormat`, `CorruptFile`, `UnsafePickle`, `TooLargeInside`, `InvalidFile`
    (shards that do not fit their index) and `PayloadTooLarge` (over a limit).
    """
    return _inspect(file, size, limits or Limits(), inside=False)


def _inspect(file: IO[bytes], size: int, limits: Limits, *, inside: bool) -> FileFacts:
    if size == 0:
        raise UnsupportedFormat(f"the file is empty (0 bytes); {sniff.SEND}")
    head = read_at(file, 0, min(size, sniff.HEAD_BYTES), "its first bytes")
    if sniff.is_zip(head):
        return _zip(file, size, limits, inside=inside)
    if sniff.is_safetensors(head):
        return _safetensors(file, size, limits)
    if sniff.is_legacy(head):
        contents, _ = torch_legacy.read_contents(file, size, limits)
        return torch_facts(FileFormat.TORCH_LEGACY, contents)
    if sniff.is_tar(head):
        _check_depth(inside)
        return _archive(FileFormat.TAR, archives.tar_parts(file, size), file, limits)
    if (what := sniff.foreign(head)) is not None:
        raise UnsupportedFormat(f"the file is {what}; {sniff.SEND}")
    if sniff.is_json(head):
        index = shards.read_index(file, size, limits)
        return FileFacts(format=FileFormat.JSON, tensors=None, index=index)
    if sniff.is_pickle(head):
        _plain_pickle(file, size, limits)
    if onnx.is_onnx(file, size):
        return _onnx(file, size, limits)
    raise UnsupportedFormat(
        f"the file is no checkpoint that is known here ({size} bytes that begin with "
        f"{sniff.shown(head)}); {sniff.SEND}"
    )


def torch_facts(kind: FileFormat, contents: Contents) -> FileFacts:
    """Several candidates are no fault of the file: a job may choose among them."""
    labels = tuple(c.label for c in contents.candidates if not c.in_optimizer)
    try:
        chosen = candidates.choose(contents.root, contents.candidates, None)
    except AmbiguousCheckpoint as error:
        return FileFacts(format=kind, tensors=None, candidates=labels, notes=(error.detail,))
    tensors = tuple(
        TensorInfo(name=name, dtype=t.dtype, shape=t.shape) for name, t in chosen.tensors.items()
    )
    return FileFacts(format=kind, tensors=tensors, weights_path=chosen.path, candidates=labels)


def _safetensors(file: IO[bytes], size: int, limits: Limits) -> FileFacts:
    header = safetensors.read_header(file, size, limits)
    return FileFacts(
        format=FileFormat.SAFETENSORS,
        tensors=tuple(
            TensorInfo(name=e.name, dtype=e.dtype, shape=e.shape) for e in header.entries
        ),
        metadata=header.metadata,
    )


def _onnx(file: IO[bytes], size: int, limits: Limits) -> FileFacts:
    """A template has no tensors of its own, and a graph that cannot be followed is refused where it
    is to be run: there, more can be said of it."""
    try:
        found = onnx.read_onnx(file, size, limits)
        onnx.check_whole(found)
    except InvalidFile as error:
        return FileFacts(format=FileFormat.ONNX, tensors=None, notes=(error.detail,))
    tensors = tuple(
        TensorInfo(name=t.name, dtype=t.dtype, shape=t.shape)
        for t in found.initializers
        if t.dtype is not None
    )
    return FileFacts(format=FileFormat.ONNX, tensors=tensors)


def _zip(file: IO[bytes], size: int, limits: Limits, *, inside: bool) -> FileFacts:
    members = zips.read_directory(file, size, limits)
    if not members:
        raise UnsupportedFormat(f"the file is an empty zip archive; {sniff.SEND}")
    if torch_zip.is_torch(members):
        return torch_facts(FileFormat.TORCH, torch_zip.read_contents(file, size, members, limits))
    if npz.is_npz(members):
        tensors = npz.read_tensors(file, size, members, limits)
        return FileFacts(format=FileFormat.NPZ, tensors=tensors)
    names = [m.name for m in members]
    if any(name.endswith("serialized_exported_program.json") for name in names) or any(
        name.endswith("archive_format") for name in names
    ):
        raise UnsupportedFormat(
            "the file is a torch.export archive (.pt2), which can run code and is never loaded "
            f"here; {sniff.SEND}"
        )
    if any(name.endswith((".keras", "model.weights.h5")) for name in names):
        raise UnsupportedFormat(f"the file is a Keras archive; {sniff.SEND}")
    _check_depth(inside)
    return _archive(FileFormat.ZIP, archives.zip_parts(file, size, members), file, limits)


def _check_depth(inside: bool) -> None:
    if inside:
        raise UnsupportedFormat("the archive holds another archive; send the shards themselves")


def _archive(
    kind: FileFormat, parts: tuple[archives.Part, ...], file: IO[bytes], limits: Limits
) -> FileFacts:
    if kind is FileFormat.TAR and {"pickle", "storages", "tensors"} <= {p.name for p in parts}:
        raise UnsupportedFormat(
            "the file was written by torch.save before 0.1.10; load it and save it again with "
            "today's torch.save"
        )
    index: ShardIndex | None = None
    tensors: dict[str, tuple[TensorInfo, ...]] = {}
    for part in parts:
        window: IO[bytes] = Slice(file, part.offset, part.size)  # type: ignore[assignment]
        facts = _part(window, part, limits)
        if facts.index is not None:
            if index is not None:
                raise InvalidFile("the archive holds two indexes; it must hold one checkpoint")
            index = facts.index
        elif facts.tensors is not None:
            tensors[part.name] = facts.tensors
    if index is None:
        if len(tensors) == 1:
            return FileFacts(
                format=kind, tensors=next(iter(tensors.values())), members=tuple(tensors)
            )
        raise UnsupportedFormat(
            f"the archive holds {len(parts)} files and no index of a sharded checkpoint "
            "(model.safetensors.index.json); add it, or send one file of weights"
        )
    shards.check_shards(index, {n: [t.name for t in held] for n, held in tensors.items()})
    return FileFacts(
        format=kind,
        tensors=tuple(t for held in tensors.values() for t in held),
        index=index,
        members=tuple(tensors),
    )


def _part(window: IO[bytes], part: archives.Part, limits: Limits) -> FileFacts:
    try:
        facts = _inspect(window, part.size, limits, inside=True)
    except InvalidFile as error:
        raise type(error)(f"in {clip(part.name)}: {error.detail}") from error
    if facts.format not in (
        FileFormat.SAFETENSORS,
        FileFormat.TORCH,
        FileFormat.TORCH_LEGACY,
        FileFormat.JSON,
    ):
        raise UnsupportedFormat(
            f"the archive holds {clip(part.name)}, which is {facts.format}; it must hold the "
            "shards of one checkpoint and their index, nothing else"
        )
    if facts.tensors is None and facts.index is None:
        raise UnsupportedFormat(
            f"{clip(part.name)} holds several sets of weights; a shard must hold one"
        )
    return facts


def _plain_pickle(file: IO[bytes], size: int, limits: Limits) -> None:
    """Raises in any case but one: bytes that only look like the beginning of a pickle."""
    try:
        read_pickle(Cursor(file, min(size, limits.max_header_bytes)), limits)
    except UnsafePickle as error:
        raise UnsafePickle(f"the file is a plain pickle. {error.detail}") from error
    except CorruptFile:
        return
    raise UnsupportedFormat(f"the file is a plain pickle, not a torch checkpoint; {sniff.SEND}")
