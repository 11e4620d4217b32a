"""Compresses a model and logs it to MLflow: parameters, metrics, the report, and the model itself
as a pyfunc that needs no original weights.

    python mlflow_log.py model.safetensors validation.safetensors --threshold 0.5

The model is logged as code (mlflow's "models from code"): this file's `CompressedMLP` is what
`mlflow.pyfunc.load_model` runs, with `rankpress.loading` and the compressed file.
MLFLOW_TRACKING_URI and RANKPRESS_URL say where.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

ARTIFACT = "weights"


def architecture() -> torch.nn.Module:
    """Yours. This one is examples/fashion_mnist."""
    return torch.nn.Sequential(
        OrderedDict(
            hidden1=torch.nn.Linear(784, 512),
            relu1=torch.nn.ReLU(),
            hidden2=torch.nn.Linear(512, 256),
            relu2=torch.nn.ReLU(),
            output=torch.nn.Linear(256, 10),
        )
    )


class CompressedMLP(PythonModel):
    """The architecture with its layers swapped by the file's manifest: no pickle is involved."""

    def load_context(self, context: Any) -> None:
        from rankpress.loading import load_compressed

        self.model = load_compressed(architecture(), context.artifacts[ARTIFACT]).eval()

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        with torch.no_grad():
            inputs = torch.from_numpy(np.asarray(model_input, dtype=np.float32))
            return self.model(inputs).numpy()


set_model(CompressedMLP())


def main() -> None:
    from rankpress import Client
    from rankpress.reporting import report_html

    parser = argparse.ArgumentParser(description="Compress a model and log it to MLflow.")
    parser.add_argument("model", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--threshold", type=float, default=0.9, help="tau in (0, 1]")
    options = parser.parse_args()
    mlflow.set_experiment("rankpress")
    with (
        Client(os.environ.get("RANKPRESS_URL", "http://127.0.0.1:8000")) as client,
        tempfile.TemporaryDirectory() as folder,
        mlflow.start_run() as run,
    ):
        done = client.compress(
            options.model,
            threshold=options.threshold,
            validation=options.validation,
            out=Path(folder) / "compressed.safetensors",
            labels={"mlflow_run": run.info.run_id},
        )
        report = done.report
        mlflow.log_params({"rule": str(report.rule), "threshold": report.threshold})
        mlflow.log_metrics(
            {
                "parameters_share": report.parameters_after / report.parameters_before,
                "bytes_after": report.bytes_after,
            }
        )
        for metric in report.evaluation.metrics:
            values = {"dense": metric.dense, "compressed": metric.compressed}
            mlflow.log_metrics(
                {f"{metric.name}_{k}": v for k, v in values.items() if v is not None}
            )
        page = report_html(report, client.spectrum(done.job.id))
        mlflow.log_text(page, "report.html")
        mlflow.log_text(report.model_dump_json(indent=2), "report.json")
        logged = mlflow.pyfunc.log_model(
            name="compressed",
            python_model=__file__,
            artifacts={ARTIFACT: str(done.path)},
            pip_requirements=["rankpress[torch]"],
            input_example=np.zeros((1, 784), np.float32),  # gives the model its signature
        )
    print(logged.model_uri)


if __name__ == "__main__":
    main()
