"""A tiny job from upload to download: the one check that the whole way works."""

from __future__ import annotations

import json
import random
import struct
import tempfile
from pathlib import Path

from rankpress.cli.doctor.check import Check, ok, wrong
from rankpress.client import Client
from rankpress.errors import RankpressError

ROWS, COLUMNS, RANK = 48, 32, 2
SECONDS = 120.0


def tiny_model(path: Path) -> None:
    """A 48 x 32 matrix of rank 2 in float32, written without numpy or torch."""
    draw = random.Random(0)  # noqa: S311 - no secret
    left = [[draw.gauss(0, 1) for _ in range(RANK)] for _ in range(ROWS)]
    right = [[draw.gauss(0, 1) for _ in range(COLUMNS)] for _ in range(RANK)]
    values = [
        sum(left[i][k] * right[k][j] for k in range(RANK))
        for i in range(ROWS)
        for j in range(COLUMNS)
    ]
    data = struct.pack(f"<{len(values)}f", *values)
    entry = {"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": [0, len(data)]}
    header = json.dumps({"doctor.weight": entry}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def job(url: str, api_key: str | None) -> Check:
    """Compresses the tiny model; its job and its upload are deleted again."""
    try:
        with tempfile.TemporaryDirectory(prefix="rankpress-") as folder:
            path = Path(folder) / "doctor.safetensors"
            tiny_model(path)
            with Client(url, api_key=api_key) as client:
                done = client.compress(path, threshold=1.0, protect_output=False, timeout=SECONDS)
                client.delete(done.job.id)
                for upload in done.job.request.upload_ids():
                    client.delete_upload(upload)
    except RankpressError as error:
        advice = "see the worker's log" if error.status else "is a worker running?"
        return wrong("job", f"{error.title}: {error.detail}", advice)
    (layer,) = done.report.layers
    if layer.rank != RANK:
        return wrong("job", f"a matrix of rank {RANK} was cut at {layer.rank}", "report this")
    seconds = sum(done.report.seconds.values())
    return ok("job", f"a tiny model went through in {seconds:.2f} s of work")
