"""Writing a checkpoint, and saying beforehand what a format cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from rankpress.errors import InvalidRequest
from rankpress.formats import dtypes
from rankpress.formats.safetensors import clip
from rankpress.names import FileFormat, OutputFormat, Reason
from rankpress.schemas.manifest import Manifest
from worker.checkpoint.files import atomic
from worker.checkpoint.safetensors_out import metadata_of, write_safetensors
from worker.checkpoint.sharded import ShardedCheckpoint
from worker.checkpoint.sharded_out import write_shards
from worker.checkpoint.torch_in import TorchCheckpoint
from worker.checkpoint.torch_out import write_torch
from worker.tensors import Checkpoint, OutputTensor

_ONLY_TORCH = (Reason.QUANTISED, Reason.SPARSE, Reason.META, Reason.SPECIAL_TENSOR)


def output_format(source: Checkpoint, wanted: OutputFormat) -> FileFormat:
    """The container that will be written. Legacy torch files come out in torch's zip form.
    Raises `InvalidRequest` at `/output/format` for another container of an ONNX model."""
    if source.format is FileFormat.ONNX and wanted is not OutputFormat.SAME:
        raise InvalidRequest.at(
            "/output/format",
            f"an ONNX model comes back as one: its weights have no place of their own in {wanted}; "
            "use `same`",
        )
    if wanted is OutputFormat.SAFETENSORS:
        return FileFormat.SAFETENSORS
    if wanted is OutputFormat.TORCH or source.format in (
        FileFormat.TORCH,
        FileFormat.TORCH_LEGACY,
    ):
        return FileFormat.TORCH
    return source.format


def check_output(source: Checkpoint, wanted: OutputFormat) -> FileFormat:
    """Before any work: whether the format can hold every tensor of the input. Raises
    `InvalidRequest` at `/output/format`."""
    kind = output_format(source, wanted)
    if kind is FileFormat.ONNX:  # what has no window is copied, whatever it is
        return kind
    flat = kind is not FileFormat.TAR and not isinstance(source, TorchCheckpoint)
    for tensor in source.tensors:
        if flat and tensor.passthrough in _ONLY_TORCH:
            raise InvalidRequest.at(
                "/output/format",
                f"tensor {clip(tensor.name)} is {tensor.passthrough}, which can only stay in the "
                "shard it is in; use `same`",
            )
        if kind is FileFormat.SAFETENSORS and (
            tensor.passthrough in _ONLY_TORCH or tensor.dtype not in dtypes.TO_SAFETENSORS
        ):
            what = tensor.passthrough if tensor.passthrough in _ONLY_TORCH else tensor.dtype
            raise InvalidRequest.at(
                "/output/format",
                f"tensor {clip(tensor.name)} is {what}, which safetensors cannot hold; use `torch`",
            )
        if kind is FileFormat.TORCH and tensor.dtype.startswith("float6_"):
            raise InvalidRequest.at(
                "/output/format",
                f"tensor {clip(tensor.name)} is {tensor.dtype}, which torch does not have; use "
                "`safetensors`",
            )
    return kind


def write_checkpoint(
    source: Checkpoint,
    outputs: Sequence[OutputTensor],
    path: Path,
    *,
    format: OutputFormat,
    manifest: Manifest | None,
    drop_optimizer: bool = False,
) -> FileFormat:
    """Streams the outputs to `path`, one tensor in memory at a time; the file is whole or not
    there. The same input gives the same bytes. Optimizer state is kept unless `drop_optimizer`,
    and left out of formats that hold tensors alone. Raises `InvalidRequest` at `/output/format`."""
    kind = check_output(source, format)
    if drop_optimizer:
        dropped = {t.name for t in source.tensors if t.passthrough is Reason.OPTIMIZER_STATE}
        outputs = [output for output in outputs if output.source not in dropped]
    names = [output.name for output in outputs]
    if len(set(names)) != len(names):
        raise ValueError("two outputs share a name")
    metadata = metadata_of(source.metadata, manifest)
    with atomic(path) as file:
        if kind is FileFormat.SAFETENSORS:
            write_safetensors(file, outputs, metadata)
        elif kind is FileFormat.ONNX:
            _write_onnx(file, source, outputs, manifest)
        elif isinstance(source, ShardedCheckpoint) and kind is FileFormat.TAR:
            write_shards(file, source, outputs, manifest)
        else:
            write_torch(
                file, source, outputs, source.metadata, manifest, drop_optimizer=drop_optimizer
            )
    return kind


def multiplied_back(source: Checkpoint, manifest: Manifest | None) -> tuple[str, ...]:
    """The factorised tensors whose graph has no nodes for two factors: it multiplies them."""
    if source.format is not FileFormat.ONNX or manifest is None:
        return ()
    from worker.checkpoint.onnx_in import OnnxCheckpoint
    from worker.checkpoint.onnx_out import factored_graph

    assert isinstance(source, OnnxCheckpoint)
    return factored_graph(source, manifest).whole


def _write_onnx(
    file: IO[bytes],
    source: Checkpoint,
    outputs: Sequence[OutputTensor],
    manifest: Manifest | None,
) -> None:
    """Imported here, so that other checkpoints need no ONNX."""
    from worker.checkpoint.onnx_in import OnnxCheckpoint
    from worker.checkpoint.onnx_out import write_onnx

    assert isinstance(source, OnnxCheckpoint)
    write_onnx(file, source, outputs, manifest)
