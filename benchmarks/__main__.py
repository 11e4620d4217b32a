"""`python -m benchmarks`: everything in one run, a table and a JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks import factorising, jobs, latency, layersets, machine, table, transfers
from benchmarks.layersets import ROOT, LayerSet
from benchmarks.table import Results

RESULTS = ROOT / "benchmarks" / "results"
DEFAULT, FACTORISED = (
    0.9,
    0.5,
)  # the default leaves most layers dense; at 0.5 nearly all have factors
PARTS = ("factorise", "transfers", "jobs", "latency")
GB = 10**9


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    results = Results(machine=machine.describe())
    started = time.perf_counter()
    for part in PARTS:
        if part in options.only:
            for step in _steps(part, options):
                step(results)
                _say(f"{time.perf_counter() - started:6.0f} s  {part}")
    text = table.render(results)
    print(text, flush=True)
    _say(f"kept in {_keep(results, text, options.folder)}")
    return 0


def _steps(part: str, options: argparse.Namespace) -> list[Callable[[Results], None]]:
    quick, smoke = options.quick, options.smoke
    match part:
        case "factorise":
            return [partial(_factorise, quick=quick, smoke=smoke)]
        case "transfers":
            size, rounds = (GB // 10, 2) if quick else (GB, 3)
            return [partial(_transfers, size=size, rounds=rounds)]
        case "jobs":
            return [partial(_jobs, quick=quick)]
    return [partial(_latency, rounds=5 if quick else 15)]


def _factorise(results: Results, *, quick: bool, smoke: bool) -> None:
    if smoke:
        results.factorising.append(
            factorising.compare(
                layersets.tiny(), FACTORISED, rounds=2, against=factorising.PEERS[:3]
            )
        )
        return
    makers: list[Callable[[], LayerSet]] = [
        layersets.mlp,
        layersets.minilm,
        layersets.efficientnet,
        partial(layersets.vit_b, 1 if quick else 12),
    ]
    sets, missing = layersets.available(makers)
    results.notes.extend(missing)
    peers = factorising.PEERS[:1] if quick else factorising.PEERS
    for threshold in (DEFAULT, FACTORISED):
        for layers in sets:
            large = sum(w.numel() * min(w.shape) for w in layers.matrices.values()) > 10**10
            rounds = 3 if quick else 3 if large else 9
            _add(results, layers, threshold, rounds, peers)
            if large:
                _add(results, layers.tall(), threshold, rounds, peers[:1])
    if not quick:
        _add(results, layersets.llama_block(), FACTORISED, 1, peers[:1])
    if torch.cuda.is_available():
        results.factorising.extend(
            factorising.compare_on_gpu(layers, FACTORISED, rounds=3) for layers in sets
        )
    else:
        results.notes.append("GPU rows: not run, no CUDA device on this machine")


def _add(
    results: Results, layers: LayerSet, threshold: float, rounds: int, peers: tuple[str, ...]
) -> None:
    results.factorising.append(factorising.compare(layers, threshold, rounds=rounds, against=peers))
    _say(f"        {layers.name}, tau {threshold}")


def _transfers(results: Results, *, size: int, rounds: int) -> None:
    rows, notes = transfers.measure(size, rounds=rounds)
    results.transfers.extend(rows)
    results.notes.extend(notes)


def _jobs(results: Results, *, quick: bool) -> None:
    results.overheads.append(jobs.overhead(jobs.SMALL_BYTES, jobs=5 if quick else 15))
    if not quick:
        results.overheads.append(jobs.overhead(GB, jobs=1))
    for workers in (1, 2):
        results.throughputs.append(jobs.throughput(workers, jobs=6 if quick else 30))


def _latency(results: Results, *, rounds: int) -> None:
    results.latencies.extend(latency.measure(rounds=rounds))


def _keep(results: Results, text: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stem = results.machine.at.replace(":", "").replace("+0000", "Z")
    (folder / f"{stem}.md").write_text(text)
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(dataclasses.asdict(results), indent=1))
    return path


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes instead of fifteen")
    parser.add_argument("--smoke", action="store_true", help="the smallest slice of factorise")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts alone")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the files go")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
