"""A compressed file, or a folder of one, opened: its manifest and its tensors by key.

safetensors is read by its own library, `.pt` by torch.load(weights_only=True), the initializers of
an ONNX model by their place in the file: nothing runs code.
A tar of shards is unpacked beside the other temporary files while it is open.
"""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rankpress.errors import InvalidFile
from rankpress.formats import archives, onnx, sniff
from rankpress.formats.binary import Slice, read_at
from rankpress.formats.limits import Limits
from rankpress.formats.manifest import read_manifest
from rankpress.loading.errors import NotCompressed, UnreadableFile
from rankpress.schemas.manifest import Manifest

DEPTH = 8


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """`shapes` by key in the file's order; `load(key)` reads one tensor."""

    manifest: Manifest
    shapes: Mapping[str, tuple[int, ...]]
    load: Callable[[str], Tensor]
    is_graph: bool = False  # an ONNX model, which computes with its tensors itself


@contextmanager
def open_compressed(path: Path) -> Iterator[Compressed]:
    """Raises `UnreadableFile`, `NotCompressed`, `FileNotFoundError`."""
    with tempfile.TemporaryDirectory(prefix="rankpress-") as unpacked:
        files = _files(path)
        if len(files) == 1 and _starts(files[0], sniff.is_tar):
            files = _files(_unpack(files[0], Path(unpacked)))
        opened = [_open(file) for file in files]
        manifests = [o.manifest for o in opened if o.manifest is not None]
        if not manifests:
            raise NotCompressed(
                f"{path.name} holds no Rankpress manifest: nothing in it is compressed, as in a "
                "file that comes back because no layer would have become smaller; load it by "
                "model.load_state_dict"
            )
        yield Compressed(
            manifest=_merged(manifests),
            shapes={key: shape for o in opened for key, shape in o.shapes.items()},
            load=_by_key(opened),
            is_graph=any(o.is_graph for o in opened),
        )


@contextmanager
def open_tensors(
    path: Path, wanted: Collection[str]
) -> Iterator[Mapping[str, Callable[[], Tensor]]]:
    """Any checkpoint's tensors by name; of a nested one the mapping that holds most of `wanted`.
    Raises `UnreadableFile`, `FileNotFoundError`."""
    with tempfile.TemporaryDirectory(prefix="rankpress-") as unpacked:
        files = _files(path)
        if len(files) == 1 and _starts(files[0], sniff.is_tar):
            files = _files(_unpack(files[0], Path(unpacked)))
        opened = [_open(file, wanted) for file in files]
        yield {key: partial(o.load, key) for o in opened for key in o.shapes}


@dataclass(frozen=True, kw_only=True)
class _Opened:
    manifest: Manifest | None
    shapes: Mapping[str, tuple[int, ...]]
    load: Callable[[str], Tensor]
    is_graph: bool = False


def _open(path: Path, wanted: Collection[str] | None = None) -> _Opened:
    """`wanted` are the names by which the right mapping of a nested checkpoint is known; those of
    the manifest where it is None."""
    try:
        manifest = read_manifest(path)
        if (graph := _graph(path, manifest)) is not None:
            return graph
    except InvalidFile as error:
        raise UnreadableFile(f"{path.name}: {error.detail}") from error
    if _starts(path, sniff.is_safetensors):
        return _safetensors(path, manifest)
    return _torch(path, manifest, _factor_keys(manifest) if wanted is None else wanted)


def _factor_keys(manifest: Manifest | None) -> frozenset[str]:
    layers = manifest.layers if manifest else ()
    return frozenset(key for layer in layers for key in (layer.right, layer.left))


def _starts(path: Path, is_kind: Callable[[bytes], bool]) -> bool:
    with path.open("rb") as file:
        return is_kind(file.read(sniff.HEAD_BYTES))


def _unpack(path: Path, folder: Path) -> Path:
    """The members by their last name part: none lands outside the folder."""
    try:
        with path.open("rb") as file:
            for part in archives.tar_parts(file, path.stat().st_size):
                source: Any = Slice(file, part.offset, part.size)
                with (folder / Path(part.name).name).open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (InvalidFile, FileExistsError) as error:
        raise UnreadableFile(f"{path.name} is no whole tar of shards") from error
    return folder


def _by_key(opened: list[_Opened]) -> Callable[[str], Tensor]:
    holder = {key: o for o in opened for key in o.shapes}
    return lambda key: holder[key].load(key)


def _merged(manifests: list[Manifest]) -> Manifest:
    """Each shard carries its own part."""
    layers = {layer.name: layer for m in manifests for layer in m.layers}
    aliases = {name: to for m in manifests for name, to in m.aliases.items()}
    return manifests[0].model_copy(update={"layers": tuple(layers.values()), "aliases": aliases})


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    indices = sorted(path.glob("*.index.json"))
    if len(indices) == 1:
        try:
            names = set(json.loads(indices[0].read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UnreadableFile(f"{indices[0].name} is no index of shards") from error
        # The name alone: an index must not lead out of its folder.
        return [path / Path(str(name)).name for name in sorted(names)]
    found = [p for s in ("safetensors", "pt", "pth", "bin") for p in sorted(path.glob(f"*.{s}"))]
    if len(found) != 1:
        raise UnreadableFile(
            f"the folder holds {len(found)} checkpoint files and {len(indices)} indices; "
            "name the file to load"
        )
    return found


def _graph(path: Path, manifest: Manifest | None) -> _Opened | None:
    """None for a file that is no ONNX model. What does not lie in the file as in memory comes as
    the bytes of its message. Raises what the checks of the format raise."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if _starts(path, sniff.is_zip) or not onnx.is_onnx(file, size):
            return None
        found = {t.name: t for t in onnx.read_onnx(file, size, Limits()).initializers}

    def load(key: str) -> Tensor:
        tensor = found[key]
        begin, end = tensor.message if tensor.values is None else tensor.values
        if begin == end:
            return torch.empty(tensor.shape)
        with path.open("rb") as file:
            data = torch.frombuffer(
                bytearray(read_at(file, begin, end - begin, "a tensor")), dtype=torch.uint8
            )
        if tensor.values is None or tensor.dtype is None:
            return data
        return data.view(getattr(torch, tensor.dtype)).reshape(tensor.shape)

    return _Opened(
        manifest=manifest,
        shapes={name: tensor.shape for name, tensor in found.items()},
        load=load,
        is_graph=True,
    )


def _safetensors(path: Path, manifest: Manifest | None) -> _Opened:
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UnreadableFile(f"{path.name} is no whole safetensors file") from error
    return _Opened(manifest=manifest, shapes=shapes, load=file.get_tensor)


def _torch(path: Path, manifest: Manifest | None, wanted: Collection[str]) -> _Opened:
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=_starts(path, sniff.is_zip)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UnreadableFile(
            f"{path.name} is no checkpoint that torch.load(weights_only=True) reads"
        ) from error
    if not isinstance(content, Mapping):
        raise UnreadableFile(f"{path.name} holds a {type(content).__name__}, not a mapping")
    tensors = _tensors(content, wanted)
    return _Opened(
        manifest=manifest,
        shapes={key: tuple(t.shape) for key, t in tensors.items()},
        load=lambda key: tensors[key],
    )


def _tensors(content: Mapping[Any, Any], wanted: Collection[str]) -> dict[str, Tensor]:
    """The mapping that holds the wanted names: the file's own, or one inside a nested checkpoint.
    When nothing is wanted, the one with the most tensors."""
    candidates = [
        {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor)}
        for found in _mappings(content, DEPTH)
    ]
    return max(candidates, key=lambda c: (len(c.keys() & set(wanted)), len(c)))


def _mappings(content: Mapping[Any, Any], depth: int) -> Iterator[Mapping[Any, Any]]:
    yield content
    if depth:
        for value in content.values():
            if isinstance(value, Mapping):
                yield from _mappings(value, depth - 1)
