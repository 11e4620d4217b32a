"""A whole ONNX model as a job's model: what must go with it, and that its weights are in it."""

from __future__ import annotations

from app.context import Services
from rankpress.errors import InvalidFile, InvalidRequest, UnsupportedFormat
from rankpress.formats import onnx
from rankpress.names import ArchitectureKind, Aware, FileFormat, OutputFormat
from rankpress.schemas.request import NOT_AWARE, JobRequest
from rankpress.schemas.upload import Upload
from rankpress.service import keys

KIND = "/evaluation/architecture/kind"


def check(services: Services, tenant: str, request: JobRequest, model: Upload) -> None:
    """Raises `InvalidRequest` for a request that does not fit the model, and at `/model` what
    reading the model raises."""
    evaluation = request.evaluation
    kind = None if evaluation is None else evaluation.architecture.kind
    if model.format is not FileFormat.ONNX:
        if kind is ArchitectureKind.ONNX:
            raise UnsupportedFormat.at(
                "/model",
                f"the upload is {model.format}; an architecture of the kind onnx is the model "
                "itself: send a whole ONNX model, its weights inside, or with this file another "
                "kind of architecture",
            )
        return
    if kind not in (None, ArchitectureKind.ONNX):
        raise InvalidRequest.at(
            KIND,
            f"the model is an ONNX graph, which is its own architecture; expected is "
            f'{{"kind": "onnx"}}, found {kind}',
        )
    if request.aware is not Aware.NONE:
        raise InvalidRequest.at("/aware", NOT_AWARE)
    if request.output.format is not OutputFormat.SAME:
        raise InvalidRequest.at(
            "/output/format", "an ONNX model comes back as one; leave it out, or use `same`"
        )
    try:
        with services.store.open(keys.upload_data(tenant, model.id)) as file:
            onnx.check_whole(onnx.read_onnx(file, model.size_bytes, services.settings.file_limits))
    except InvalidFile as error:
        raise type(error).at("/model", error.detail) from error
