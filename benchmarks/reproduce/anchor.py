"""The one public anchor of the method: an MNIST CNN, tau = 0.9 on its 3136 x 128 layer alone.

Published: rank 102, 421,642 -> 353,162 parameters, accuracy 99.04 -> 99.03.
"""

from __future__ import annotations

from typing import Any

from benchmarks.reproduce.data import CACHE, DataSet
from benchmarks.reproduce.models import SHAPES, accuracy, loaded, trained
from benchmarks.reproduce.service import Compressor
from rankpress.loading import load_compressed

LAYER = "fc1.weight"


def run(compressor: Compressor, data: DataSet, seed: int) -> dict[str, Any]:
    """Scored here, with the loader, since the service is told no architecture."""
    print(f"{data.name}, cnn, seed {seed}", flush=True)
    path = trained(data, "cnn", seed)
    out = CACHE / f"{path.stem}-compressed.safetensors"
    report = compressor.download(
        path,
        out,
        rule="entropy",
        threshold=0.9,
        layers=[{"match": LAYER}, {"match": "*", "keep_dense": True}],
    )
    dense = loaded(path, "cnn")
    before = accuracy(dense, data.test, SHAPES["cnn"])
    after = accuracy(load_compressed(dense, out), data.test, SHAPES["cnn"])
    (rank,) = [layer.rank for layer in report.layers if layer.name == LAYER]
    print(f"  rank {rank}, {report.parameters_after} parameters, {before} -> {after}", flush=True)
    return {
        "rank": rank,
        "parameters_before": report.parameters_before,
        "parameters_after": report.parameters_after,
        "accuracy": [before, after],
    }
