"""A job's files: from the store to a local path, from a local path to the store."""

from __future__ import annotations

import shutil
from pathlib import Path

from rankpress.errors import InvalidRequest, NotFound
from rankpress.names import ArchitectureKind, Aware
from rankpress.schemas.request import JobRequest
from rankpress.service import keys, uploads
from rankpress.service.redaction import without_secret
from rankpress.service.settings import Settings
from rankpress.service.spec import JobSpec
from rankpress.service.store import Store
from worker.child.messages import JobInputs, Limits
from worker.cores import threads_of_a_job


class JobFiles:
    """Paths of one job. The scratch folder holds nothing that cannot be fetched or made again."""

    def __init__(self, settings: Settings, store: Store, spec: JobSpec) -> None:
        self.settings = settings
        self.store = store
        self.spec = spec
        self.scratch = settings.worker_scratch_dir / spec.tenant / spec.job_id
        self.scratch.mkdir(parents=True, exist_ok=True)

    def fetch_inputs(self) -> JobInputs:
        """Raises `InvalidRequest` when an upload was deleted before the job ran."""
        request = self.spec.request
        models = [self._fetch_upload(i, "/model") for i in model_ids(request)]
        evaluation = request.evaluation
        validation = template = calibration = None
        if evaluation is not None:
            if evaluation.calibration is not None:
                calibration, _ = self._fetch_upload(
                    evaluation.calibration, "/evaluation/calibration"
                )
            validation, _ = self._fetch_upload(evaluation.validation, "/evaluation/validation")
            if (template_id := evaluation.architecture.template) is not None:
                pointer = "/evaluation/architecture/template"
                template, _ = self._fetch_upload(template_id, pointer)
        return JobInputs(
            request=without_secret(request),  # the compute process is told no secret
            models=tuple(path for path, _ in models),
            model_names=tuple(name for _, name in models),
            validation=validation,
            template=template,
            calibration=calibration,
            statistics=self._statistics(),
            limits=Limits(
                step_seconds=self.settings.step_seconds,
                threads=threads_of_a_job(self.settings.threads, self.settings.worker_concurrency),
                memory_bytes=self.settings.child_memory_bytes,
                layers_bytes=self.settings.layers_memory_bytes,
                cpu_seconds=self.settings.child_cpu_seconds,
                max_header_bytes=self.settings.max_header_bytes,
                max_tensors=self.settings.max_tensors,
                device=self.settings.device,
                forms=self.settings.decomposition_cache_dir / self.spec.tenant,
                forms_bytes=self.settings.decomposition_cache_bytes,
            ),
        )

    def _statistics(self) -> Path | None:
        """The caller's; or where the service's own are, once the step calibrate has made them."""
        request = self.spec.request
        if request.statistics is not None:
            return self._fetch_upload(request.statistics, "/statistics")[0]
        if request.aware is Aware.NONE:
            return None
        key = keys.job_statistics(self.spec.tenant, self.spec.job_id)
        if not self.statistics.exists() and self.store.exists(key):
            self.store.fetch(key, self.statistics)
        return self.statistics

    @property
    def statistics(self) -> Path:
        return self.scratch / "statistics"

    def put_statistics(self) -> None:
        key = keys.job_statistics(self.spec.tenant, self.spec.job_id)
        self.store.put_file(key, self.statistics)  # a copy: the stages read the file here

    def input_sha256(self) -> tuple[str, ...]:
        return tuple(
            uploads.load(self.store, self.spec.tenant, i).sha256
            for i in model_ids(self.spec.request)
        )

    def evaluation_sha256(self) -> dict[str, str]:
        """Of the samples and the template, by the report's field; empty without an evaluation."""
        evaluation = self.spec.request.evaluation
        if evaluation is None:
            return {}
        is_template = evaluation.architecture.kind is ArchitectureKind.TEMPLATE
        named = {
            "validation_sha256": evaluation.validation,
            "template_sha256": evaluation.architecture.template if is_template else None,
        }
        return {
            field: uploads.load(self.store, self.spec.tenant, upload_id).sha256
            for field, upload_id in named.items()
            if upload_id is not None
        }

    def input_bytes(self) -> int:
        return sum(
            uploads.load(self.store, self.spec.tenant, i).size_bytes
            for i in model_ids(self.spec.request)
        )

    def _fetch_upload(self, upload_id: str, pointer: str) -> tuple[Path, str | None]:
        try:
            upload = uploads.load(self.store, self.spec.tenant, upload_id)
        except NotFound as error:
            raise InvalidRequest.at(pointer, f"the upload {upload_id!r} is gone") from error
        key = keys.upload_data(self.spec.tenant, upload_id)
        return self.store.fetch(key, self.scratch / "inputs" / upload_id), upload.filename

    def part(self, group: int) -> Path:
        return self.scratch / f"part-{group:06d}"

    def put_part(self, group: int) -> None:
        key = keys.job_part(self.spec.tenant, self.spec.job_id, group)
        self.store.take_file(key, self.part(group))

    def fetch_part(self, group: int) -> Path:
        key = keys.job_part(self.spec.tenant, self.spec.job_id, group)
        return self.store.fetch(key, self.part(group))

    def refit(self, result: int) -> Path:
        return self.scratch / f"refit-{result}"

    def put_refit(self, result: int) -> None:
        key = keys.job_refit(self.spec.tenant, self.spec.job_id, result)
        self.store.take_file(key, self.refit(result))

    def fetch_refit(self, result: int) -> Path:
        key = keys.job_refit(self.spec.tenant, self.spec.job_id, result)
        return self.store.fetch(key, self.refit(result))

    def delete_parts(self) -> None:
        self.store.delete_prefix(keys.job_parts(self.spec.tenant, self.spec.job_id))

    def weights(self, result: int) -> Path:
        return self.scratch / f"weights-{result}"

    def put_weights(self, result: int) -> None:
        key = keys.job_weights(self.spec.tenant, self.spec.job_id, result)
        self.store.take_file(key, self.weights(result))

    def fetch_weights(self, result: int) -> Path:
        key = keys.job_weights(self.spec.tenant, self.spec.job_id, result)
        return self.store.fetch(key, self.weights(result))

    @property
    def spectrum(self) -> Path:
        return self.scratch / "spectrum.json"

    def put_spectrum(self) -> None:
        self.store.take_file(keys.job_spectrum(self.spec.tenant, self.spec.job_id), self.spectrum)


def remove_scratch_of(settings: Settings, job_id: str) -> None:
    """What a job left on this machine, when nothing here works for it any more."""
    for path in settings.worker_scratch_dir.glob(f"*/{job_id}"):
        shutil.rmtree(path, ignore_errors=True)


def model_ids(request: JobRequest) -> tuple[str, ...]:
    return (request.model,) if isinstance(request.model, str) else request.model


def upload_ids(request: JobRequest) -> tuple[str, ...]:
    """Every upload that a request names."""
    return tuple(sorted(request.upload_ids()))
