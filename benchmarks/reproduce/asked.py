"""The MLPs that an experiment's command line asks for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.reproduce.data import NAMES, DataSet, load
from benchmarks.reproduce.models import trained


def mlps(about: str | None) -> Iterator[tuple[DataSet, int, Path]]:
    """(data, seed, checkpoint) of each, trained when it is not in the cache. One thread."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0] if about else None)
    parser.add_argument("--data", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.data:
        data = load(name)
        for seed in options.seeds:
            yield data, seed, trained(data, "mlp", seed)
