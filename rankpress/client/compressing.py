"""`compress`: upload, submit, wait, report, download, and swap the module's layers, in one call."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankpress.client import jobs
from rankpress.client.downloads import download
from rankpress.client.effects import ByteProgress, Flow, blocking
from rankpress.client.jobs import JobProgress
from rankpress.client.retry import RetryPolicy
from rankpress.client.scoring import Scoring
from rankpress.client.uploads import upload
from rankpress.names import Action, FileFormat
from rankpress.schemas.job import Job
from rankpress.schemas.report import RankReport

SUFFIXES = {
    str(FileFormat.SAFETENSORS): ".safetensors",
    str(FileFormat.TAR): ".tar",
    str(FileFormat.ONNX): ".onnx",
}
TORCH_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt"})
PENDING = "pending"  # stands for an upload's id while the request is checked


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """What `compress` gives back."""

    job: Job
    report: RankReport
    path: Path | None  # the compressed file, unless `out` was left out for an object in memory
    model: Any = None  # the module given, its layers swapped; or the tensors of a state_dict


@dataclass(frozen=True, kw_only=True)
class Watchers:
    """Callbacks of the three long parts."""

    upload: ByteProgress | None = None
    job: JobProgress | None = None
    download: ByteProgress | None = None


def compress(
    model: Any,
    *,
    fields: Mapping[str, Any],
    scoring: Scoring,
    out: str | os.PathLike[str] | None,
    timeout: float | None,
    watch: Watchers,
    policy: RetryPolicy,
) -> Flow[Compressed]:
    """`model` is a path (a file, or a folder of one checkpoint), an nn.Module or a state_dict.
    `fields` are those of `JobRequest` without `model`. The request is checked, and a template made,
    before the first byte is sent. Raises as export_template, upload, submit, wait and download
    do."""
    scoring = yield from blocking(lambda: scoring.beside(model))
    check(model, fields, scoring)
    folder = yield from blocking(lambda: tempfile.TemporaryDirectory(prefix="rankpress-"))
    try:
        path = Path(folder.name)
        files = yield from blocking(lambda: files_of(model, path))
        job = yield from run(model, files, path, fields, scoring, timeout, watch, policy)
        report = yield from jobs.report(job.id, policy=policy)
        in_memory = not isinstance(model, str | os.PathLike)
        if out is not None:
            target = Path(out)
        elif in_memory:
            target = path / "compressed.safetensors"
        else:
            target = default_output(Path(model), report)
        url = jobs.job_path(job.id, "weights")
        found = yield from download(url, target, progress=watch.download, policy=policy)
        loaded = (yield from blocking(lambda: _load(model, found, report))) if in_memory else None
    finally:
        folder.cleanup()
    kept = None if in_memory and out is None else found
    return Compressed(job=job, report=report, path=kept, model=loaded)


def check(model: Any, fields: Mapping[str, Any], scoring: Scoring) -> None:
    """Raises `InvalidRequest` with pointers, and TypeError, before the first byte is sent."""
    scoring.check(model, fields)
    ids = (PENDING if scoring.validation else None, PENDING if scoring.has_template else None)
    jobs.request_of(None, _fields(fields, scoring, (PENDING,), *ids))


def files_of(model: Any, folder: Path) -> tuple[Path, ...]:
    """The files to send; what is in memory is written to `folder`."""
    if isinstance(model, str | os.PathLike):
        return model_files(Path(model))
    saved = folder / "model.safetensors"
    save(model, saved)
    return (saved,)


def run(
    model: Any,
    files: tuple[Path, ...],
    folder: Path,
    fields: Mapping[str, Any],
    scoring: Scoring,
    timeout: float | None,
    watch: Watchers,
    policy: RetryPolicy,
) -> Flow[Job]:
    """The job of these files, once it has succeeded."""
    beside = yield from blocking(lambda: scoring.files(model, folder))
    ids = []
    for file in files:
        sent = yield from upload(file, filename=None, progress=watch.upload, policy=policy)
        ids.append(sent.id)
    beside_ids: list[str | None] = []
    for path in beside:
        if path is None:
            beside_ids.append(None)
            continue
        sent = yield from upload(path, filename=None, progress=watch.upload, policy=policy)
        beside_ids.append(sent.id)
    validation_id, template_id = beside_ids
    request = jobs.request_of(
        None, _fields(fields, scoring, tuple(ids), validation_id, template_id)
    )
    job = yield from jobs.submit(request, idempotency_key=None, policy=policy)
    return (yield from jobs.wait(job.id, timeout=timeout, on_progress=watch.job, policy=policy))


def _fields(
    fields: Mapping[str, Any],
    scoring: Scoring,
    model_ids: tuple[str, ...],
    validation_id: str | None,
    template_id: str | None,
) -> dict[str, Any]:
    merged = scoring.fields(fields, validation_id, template_id)
    return {**merged, "model": model_ids[0] if len(model_ids) == 1 else model_ids}


def default_output(model: Path, report: RankReport) -> Path:
    """Beside the model: `net.pt` becomes `net-compressed.pt`, a folder of shards one tar."""
    is_folder = model.is_dir()
    suffix = "" if is_folder else model.suffix
    if report.output_format in SUFFIXES:
        suffix = SUFFIXES[report.output_format]
    elif suffix not in TORCH_SUFFIXES:
        suffix = ".pt"
    stem = model.resolve().name if is_folder else model.stem
    return model.parent / f"{stem}-compressed{suffix}"


def model_files(path: Path) -> tuple[Path, ...]:
    """The files of one checkpoint: the file itself, or of a folder the index and its shards, or
    its only checkpoint. Raises `FileNotFoundError` and `ValueError`."""
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"no file {path}")
        return (path,)
    indices = sorted(path.glob("*.index.json"))
    if len(indices) == 1:
        weight_map = json.loads(indices[0].read_text()).get("weight_map", {})
        shards = sorted({path / Path(name).name for name in weight_map.values()})
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise FileNotFoundError(f"{indices[0].name} names missing files: {', '.join(missing)}")
        return (indices[0], *shards)
    found = [p for s in ("safetensors", "pt", "pth", "bin", "ckpt") for p in path.glob(f"*.{s}")]
    if len(indices) > 1 or len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} checkpoints; name the file to compress")
    return (found[0],)


def save(model: Any, path: Path) -> None:
    """An nn.Module or a state_dict as a safetensors file."""
    from rankpress.loading import save_dense  # torch, only where an object in memory is given

    save_dense(model, path)


def _load(model: Any, path: Path, report: RankReport) -> Any:
    """A file in which nothing is factorised is the one that was sent: the object is it already."""
    if not any(layer.action is Action.FACTORISED for layer in report.layers):
        return dict(model) if isinstance(model, Mapping) else model
    from rankpress.loading import load_compressed, read_tensors

    return read_tensors(path) if isinstance(model, Mapping) else load_compressed(model, path)
