"""Latency of the example's compressed model against the dense one, as a caller loads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.layersets import EXAMPLE
from benchmarks.measure import Summary, ratios, summary, take_turns
from benchmarks.service import serving
from rankpress.client import Client
from rankpress.loading import load_compressed

BATCHES = (1, 64)
REPEATS = 20  # passes a turn: one alone is shorter than the clock's own noise
WIDE = (784, 4096, 4096, 10)  # where products, not calls, take the time


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds a batch; `speedup` is dense over compressed within a round."""

    model: str
    rank_multiple: int
    batch: int
    parameters: float  # share that is left
    dense_seconds: Summary
    compressed_seconds: Summary
    speedup: Summary


def measure(*, rounds: int, ratio: float = 0.25) -> list[Latency]:
    """The rule ratio, so that every layer has the same share left, at ranks as they come and as
    multiples of eight."""
    found: list[Latency] = []
    with TemporaryDirectory(prefix="rankpress-bench-") as name, serving() as url:
        folder = Path(name)
        wide = folder / "wide.safetensors"
        save_file(_chain(WIDE).state_dict(), wide)
        models = {"example MLP 784-512-256-10": EXAMPLE, f"MLP {'-'.join(map(str, WIDE))}": wide}
        with Client(url) as client:
            for label, path in models.items():
                for multiple in (1, 8):
                    out = folder / f"compressed-{len(found)}.safetensors"
                    done = client.compress(
                        path, out=out, rule="ratio", threshold=ratio, rank_multiple=multiple
                    )
                    share = done.report.parameters_after / done.report.parameters_before
                    found += _latencies(label, path, out, multiple, share, rounds)
    return found


def _latencies(
    label: str, dense_path: Path, path: Path, multiple: int, share: float, rounds: int
) -> list[Latency]:
    tensors = load_file(dense_path)
    sizes = _sizes(tensors)
    dense = _chain(sizes)
    dense.load_state_dict(dict(zip(dense.state_dict(), tensors_in_order(tensors), strict=True)))
    names = [key.removesuffix(".weight") for key in _weights(tensors)]
    compressed = load_compressed(_named(sizes, names), path).eval()
    found = []
    for batch in BATCHES:
        inputs = torch.randn(batch, sizes[0], generator=torch.Generator().manual_seed(batch))
        contenders: dict[str, Callable[[], object]] = {
            "dense": partial(_passes, dense, inputs),
            "compressed": partial(_passes, compressed, inputs),
        }
        turns = take_turns(contenders, rounds=rounds)
        found.append(
            Latency(
                model=label,
                rank_multiple=multiple,
                batch=batch,
                parameters=share,
                dense_seconds=summary([t.wall / REPEATS for t in turns["dense"]]),
                compressed_seconds=summary([t.wall / REPEATS for t in turns["compressed"]]),
                speedup=ratios(turns["dense"], turns["compressed"]),
            )
        )
    return found


def _passes(model: nn.Module, inputs: torch.Tensor) -> None:
    with torch.inference_mode():
        for _ in range(REPEATS):
            model(inputs)


def _weights(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Keys of a chain's weights in the order that the shapes chain in."""
    left = {key: t.shape for key, t in tensors.items() if t.ndim == 2}
    outs = {shape[0] for shape in left.values()}
    ordered = [next(key for key, shape in left.items() if shape[1] not in outs)]
    while len(ordered) < len(left):
        width = left[ordered[-1]][0]
        ordered.append(
            next(key for key, shape in left.items() if shape[1] == width and key not in ordered)
        )
    return ordered


def tensors_in_order(tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [
        tensors[key.removesuffix("weight") + part]
        for key in _weights(tensors)
        for part in ("weight", "bias")
    ]


def _sizes(tensors: dict[str, torch.Tensor]) -> tuple[int, ...]:
    weights = [tensors[key] for key in _weights(tensors)]
    return (weights[0].shape[1], *(w.shape[0] for w in weights))


def _chain(sizes: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _named(sizes: tuple[int, ...], names: list[str]) -> nn.Module:
    """The chain under the file's own names, which the loader goes by."""
    model = nn.Sequential()
    linear = [layer for layer in _chain(sizes) if isinstance(layer, nn.Linear)]
    for i, (name, layer) in enumerate(zip(names, linear, strict=True)):
        if i:
            model.add_module(f"relu{i}", nn.ReLU())
        model.add_module(name, layer)
    return model
