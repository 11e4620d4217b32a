"""From a request to a queued job: validate, recognise a repetition, check, enqueue."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import hashlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from app import graphs, webhooks
from app.context import Services
from app.pointers import items_of
from rankpress.errors import (
    Conflict,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    TooManyRequests,
    UnsupportedFormat,
)
from rankpress.names import FileFormat
from rankpress.schemas.request import JobRequest
from rankpress.schemas.upload import Upload
from rankpress.service import uploads
from rankpress.service.ids import new_id
from rankpress.service.records import Record
from rankpress.service.spec import JobSpec

MODEL_FORMATS = (
    FileFormat.SAFETENSORS,
    FileFormat.TORCH,
    FileFormat.TORCH_LEGACY,
    FileFormat.TAR,  # of the shards of one model and their index
    FileFormat.ZIP,
    FileFormat.ONNX,
)
SHARD_FORMATS = (*(f for f in MODEL_FORMATS if f is not FileFormat.ONNX), FileFormat.JSON)
VALIDATION_FORMATS = (FileFormat.SAFETENSORS, FileFormat.NPZ)
RETRY_SECONDS = 5
_NAMESPACE = uuid.UUID("4d7a3f0e-52a5-4c0c-9a57-0f1f4a9f7f3e")


def validate(document: dict[str, Any]) -> JobRequest:
    """Raises `InvalidRequest` with a pointer for each fault."""
    try:
        request = JobRequest.model_validate(document)
    except ValidationError as error:
        items = items_of(error.errors(), document)
        detail = "; ".join(f"{i.pointer}: {i.detail}" if i.pointer else i.detail for i in items)
        raise InvalidRequest(detail, errors=items) from error
    return request


def fingerprint(content: dict[str, Any]) -> str:
    """SHA-256 of the content, whatever the order of its keys and the space between them."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def job_id_for(tenant: str, key: str | None) -> str:
    """The same key names the same job for ever; without a key every submission is a new one."""
    if key is None:
        return new_id()
    return str(uuid.uuid5(_NAMESPACE, json.dumps([tenant, key])))


@contextlib.contextmanager
def only_once(services: Services, tenant: str, key: str | None) -> Iterator[None]:
    """Raises `Conflict` while another request with the same key is being worked on."""
    if key is None:
        yield
        return
    if (tenant, key) in services.submitting:
        raise Conflict(
            "a request with this Idempotency-Key is still being worked on; repeat it in a moment",
            headers={"Retry-After": "1"},
        )
    services.submitting.add((tenant, key))
    try:
        yield
    finally:
        services.submitting.discard((tenant, key))


async def repeated(services: Services, tenant: str, job_id: str, body: str) -> Record | None:
    """The job that this submission made before. Raises `IdempotencyMismatch`."""
    record = await asyncio.to_thread(services.engine.get, tenant, job_id)
    if record is not None and record.spec.body_sha256 != body:
        raise IdempotencyMismatch(
            "this Idempotency-Key was used with another body; "
            "repeat that body, or send a new key with the new one"
        )
    return record


async def enqueue(services: Services, spec: JobSpec) -> Record:
    """Checks what the request names, and submits. The repetition that lost a race against its
    twin gets the twin's job."""
    await asyncio.to_thread(_check, services, spec)
    await asyncio.to_thread(services.engine.submit, spec)
    record = await repeated(services, spec.tenant, spec.job_id, spec.body_sha256)
    if record is None:
        raise NotFound("the job was deleted while it was being made")
    return record


def _check(services: Services, spec: JobSpec) -> None:
    request, tenant = spec.request, spec.tenant
    limit = services.settings.max_open_jobs
    if services.engine.count_open(tenant) >= limit:
        raise TooManyRequests(
            f"{limit} jobs are queued or running, the most that one caller may have; "
            "wait until one ends, or cancel one",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    webhooks.check(request.webhook, services.settings)
    several = isinstance(request.model, tuple)
    shards = request.model if isinstance(request.model, tuple) else (request.model,)
    models = []
    for at, upload_id in enumerate(shards):
        pointer = f"/model/{at}" if several else "/model"
        allowed = SHARD_FORMATS if several else MODEL_FORMATS
        models.append(_usable(services, tenant, upload_id, pointer, allowed))
    graphs.check(services, tenant, request, models[0])
    if request.evaluation is not None:
        pointer = "/evaluation/validation"
        _usable(services, tenant, request.evaluation.validation, pointer, VALIDATION_FORMATS)
        if (calibration := request.evaluation.calibration) is not None:
            pointer = "/evaluation/calibration"
            _usable(services, tenant, calibration, pointer, VALIDATION_FORMATS)
        if (template := request.evaluation.architecture.template) is not None:
            _usable(services, tenant, template, "/evaluation/architecture/template", ())
    if request.statistics is not None:
        _usable(services, tenant, request.statistics, "/statistics", (FileFormat.SAFETENSORS,))
    _check_patterns(request, models)


def _usable(
    services: Services, tenant: str, upload_id: str, pointer: str, formats: tuple[FileFormat, ...]
) -> Upload:
    try:
        upload = uploads.load(services.store, tenant, upload_id)
    except NotFound as error:
        raise InvalidRequest.at(
            pointer, f"no upload {upload_id!r}; POST /v1/uploads makes one"
        ) from error
    if formats and upload.format not in formats:
        raise UnsupportedFormat.at(
            pointer, f"the upload is {upload.format}; expected is one of {', '.join(formats)}"
        )
    return upload


def _check_patterns(request: JobRequest, models: list[Upload]) -> None:
    """A pattern that matches nothing, where the files' headers tell the tensors' names."""
    names: list[str] = []
    for upload in models:
        if upload.format is not FileFormat.JSON and upload.tensors is None:
            return
        names += [tensor.name for tensor in upload.tensors or ()]
    for at, layer in enumerate(request.layers):
        if not any(fnmatch.fnmatchcase(name, layer.match) for name in names):
            raise InvalidRequest.at(
                f"/layers/{at}/match",
                f"{layer.match[:100]!r} matches no tensor of the model; "
                f"its {len(names)} names begin with {', '.join(map(repr, names[:3]))}",
            )
