"""A trained network as the service is given it: its file, its samples, and how it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rankpress
from benchmarks.reproduce.data import CACHE, CALIBRATION, DataSet, write_uploads
from benchmarks.reproduce.models import SHAPES, loaded, trained
from benchmarks.reproduce.service import Compressor
from rankpress.names import Sensitivity
from rankpress.service.store import sha256_of

BATCH = 128  # samples of a calibration step


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`uploads` by part. `evaluation` goes into every evaluation, `calibration` into those of the
    rules that look at data; or they get an upload of `statistics`, by its sensitivity."""

    key: str
    model: Path
    uploads: dict[str, str]
    evaluation: dict[str, Any]
    statistics: dict[str, str]
    calibration: dict[str, Any]
    setup: dict[str, Any]

    def scored_on(self, part: str, fields: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The request but for the model: `fields` of a rule, scored on `validation` or `test`."""
        evaluation = {"validation": self.uploads[part], **self.evaluation, **more}
        if fields.get("aware", "none") == "none":
            return {"evaluation": evaluation, **fields}
        if not self.statistics:
            return {"evaluation": evaluation | self.calibration, **fields}
        fields = dict(fields)
        statistics = self.statistics[fields.pop("sensitivity", Sensitivity.OUTPUT)]
        return {"evaluation": evaluation, **fields, "statistics": statistics}


def subject(compressor: Compressor, data: DataSet, kind: str, seed: int) -> Subject:
    """Trains the network when it is not in the cache."""
    path = trained(data, kind, seed)
    files = write_uploads(data, image=kind != "mlp")
    uploads = {part: compressor.upload(file) for part, file in files.items()}
    evaluation: dict[str, Any] = {"batch_size": 1000}
    statistics: dict[str, str] = {}
    calibration: dict[str, Any] = {}
    if kind == "mlp":
        calibration["calibration"] = uploads["calibration"]
    else:
        model = loaded(path, kind).eval()
        images = data.train.images[:CALIBRATION].reshape(SHAPES[kind])
        template = CACHE / f"{path.stem}.onnx"
        rankpress.export_template(model, images[:2], template)
        architecture = {"kind": "template", "template": compressor.upload(template)}
        evaluation["architecture"] = architecture
        for sensitivity in Sensitivity:
            file = CACHE / f"{path.stem}-statistics-{sensitivity}.safetensors"
            rankpress.collect_statistics(
                model, images.split(BATCH), file, two_sided=True, sensitivity=sensitivity
            )
            statistics[sensitivity] = compressor.upload(file)
    return Subject(
        key=f"{data.name}/{kind}/{seed}",
        model=path,
        uploads=uploads,
        evaluation=evaluation,
        statistics=statistics,
        calibration=calibration,
        setup={
            "checkpoint": sha256_of(path),
            "validation": len(data.validation.labels),
            "calibration": CALIBRATION,
        },
    )
