"""A Kubeflow pipeline: compress, then a gate on the accuracy. `python kubeflow_pipeline.py`
compiles it to pipeline.yaml; `--local MODEL VALIDATION` runs it here, in subprocesses.

In a cluster the files are on a volume or fetched by a component of yours; RANKPRESS_URL is the
service's address as the pods see it.
"""

import os
import sys
from typing import NamedTuple

from kfp import compiler, dsl, local

IMAGE = "python:3.12-slim"
PACKAGES = ["rankpress"]


@dsl.component(base_image=IMAGE, packages_to_install=PACKAGES)
def compress(
    url: str,
    model: str,
    validation: str,
    threshold: float,
    weights: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Accuracy", [("dense", float), ("compressed", float)]):
    from collections import namedtuple
    from pathlib import Path

    from rankpress import Client
    from rankpress.reporting import report_markdown

    with Client(url) as client:
        done = client.compress(model, threshold=threshold, validation=validation, out=weights.path)
    Path(report.path).write_text(report_markdown(done.report), encoding="utf-8")
    weights.metadata["sha256"] = done.report.output_sha256
    metrics.log_metric("share", done.report.bytes_after / done.report.bytes_before)
    for metric in done.report.evaluation.metrics:
        if metric.compressed is not None:
            metrics.log_metric(metric.name, metric.compressed)
    accuracy = next(m for m in done.report.evaluation.metrics if m.name == "accuracy")
    return namedtuple("Accuracy", ["dense", "compressed"])(accuracy.dense, accuracy.compressed)


@dsl.component(base_image=IMAGE)
def gate(dense: float, compressed: float, max_drop: float) -> str:
    if dense - compressed > max_drop:
        raise ValueError(f"accuracy fell from {dense:.4f} to {compressed:.4f}")
    return f"accuracy {compressed:.4f}, before {dense:.4f}"


@dsl.pipeline(name="compress-with-gate")
def pipeline(
    url: str, model: str, validation: str, threshold: float = 0.9, max_drop: float = 0.01
) -> str:
    done = compress(url=url, model=model, validation=validation, threshold=threshold)
    checked = gate(
        dense=done.outputs["dense"], compressed=done.outputs["compressed"], max_drop=max_drop
    )
    return checked.output


def main() -> None:
    if sys.argv[1:2] != ["--local"]:
        compiler.Compiler().compile(pipeline, "pipeline.yaml")
        return
    # The packages are those of this environment: no virtual environment for each task.
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="pipeline-outputs")
    model, validation = sys.argv[2:4]
    url = os.environ.get("RANKPRESS_URL", "http://127.0.0.1:8000")
    print(pipeline(url=url, model=model, validation=validation).output)


if __name__ == "__main__":
    main()
