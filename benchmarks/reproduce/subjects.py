"""A trained network as the service is given it: its file, its samples, and how it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rankpress
from benchmarks.reproduce.data import CACHE, CALIBRATION, DataSet, write_uploads
from benchmarks.reproduce.models import SHAPES, loaded, trained
from benchmarks.reproduce.service import Compressor
from rankpress.service.store import sha256_of

BATCH = 128  # samples of a calibration step


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`uploads` by part. `evaluation` goes into every evaluation; `aware` and `calibration` are
    the request's and the evaluation's fields of the rules that look at data."""

    key: str
    model: Path
    uploads: dict[str, str]
    evaluation: dict[str, Any]
    aware: dict[str, Any]
    calibration: dict[str, Any]
    setup: dict[str, Any]

    def scored_on(self, part: str, fields: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The request but for the model: `fields` of a rule, scored on `validation` or `test`."""
        uses_data = fields.get("aware", "none") != "none"
        evaluation = {"validation": self.uploads[part], **self.evaluation, **more}
        if uses_data:
            evaluation |= self.calibration
        return {"evaluation": evaluation, **fields, **(self.aware if uses_data else {})}


def subject(compressor: Compressor, data: DataSet, kind: str, seed: int) -> Subject:
    """Trains the network when it is not in the cache."""
    path = trained(data, kind, seed)
    files = write_uploads(data, image=kind != "mlp")
    uploads = {part: compressor.upload(file) for part, file in files.items()}
    evaluation: dict[str, Any] = {"batch_size": 1000}
    aware: dict[str, Any] = {}
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
        statistics = CACHE / f"{path.stem}-statistics.safetensors"
        rankpress.collect_statistics(model, images.split(BATCH), statistics, two_sided=True)
        aware["statistics"] = compressor.upload(statistics)
    return Subject(
        key=f"{data.name}/{kind}/{seed}",
        model=path,
        uploads=uploads,
        evaluation=evaluation,
        aware=aware,
        calibration=calibration,
        setup={
            "checkpoint": sha256_of(path),
            "validation": len(data.validation.labels),
            "calibration": CALIBRATION,
        },
    )
