"""Trains the example: an MLP 784-512-256-10 on Fashion-MNIST.

    python examples/fashion_mnist/train.py              # trains, writes model and validation files
    python examples/fashion_mnist/train.py --check      # trains again and compares, writes nothing

The four IDX files are those of Debian's package `dataset-fashion-mnist`, or of the data set's
own repository; `--data` names their folder. Pixels are divided by 255, nothing else.
"""

from __future__ import annotations

import argparse
import gzip
import math
import struct
import time
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
MODEL = HERE / "model.safetensors"
VALIDATION = HERE / "validation.safetensors"

SEED = 20250424
EPOCHS = 30
BATCH = 128
LEARNING_RATE = 2e-3  # cosine decay to zero
WEIGHT_DECAY = 0.4  # decoupled (AdamW); without it a layer keeps the flat spectrum of its start
THREADS = 2  # the order of a sum depends on it, so it is fixed
VALIDATION_IMAGES = 2_000
TOLERANCE = 0.005  # half a point


class Split(NamedTuple):
    """images: float32 [n, 784] in [0, 1]; labels: int64 [n]."""

    images: Tensor
    labels: Tensor


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of unsigned bytes, in its own shape.

    Raises ValueError when the file is not that.
    """
    raw = gzip.decompress(path.read_bytes())
    zero, kind, dimensions = struct.unpack_from(">HBB", raw)
    if (zero, kind) != (0, 0x08):
        raise ValueError(f"{path.name}: not an IDX file of unsigned bytes")
    shape = struct.unpack_from(f">{dimensions}I", raw, 4)
    body = bytearray(raw[4 + 4 * dimensions :])
    if len(body) != math.prod(shape):
        raise ValueError(f"{path.name}: {len(body)} bytes for the shape {shape}")
    return torch.frombuffer(body, dtype=torch.uint8).reshape(shape)


def read_split(folder: Path, name: str) -> Split:
    """`name` is `train` (60,000 images) or `t10k` (10,000)."""
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
    return Split(images.flatten(1).float() / 255, labels.long())


def mlp() -> nn.Sequential:
    """The architecture, and thus the keys of `model.safetensors`."""
    return nn.Sequential(
        OrderedDict(
            hidden1=nn.Linear(784, 512),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(512, 256),
            relu2=nn.ReLU(),
            output=nn.Linear(256, 10),
        )
    )


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images [n, 784] whose largest logit is the label's [n]."""
    return (model(images.float()).argmax(1) == labels).double().mean().item()


def train(split: Split, epochs: int = EPOCHS) -> nn.Sequential:
    """The trained model. Seeds torch's generator and fixes the number of threads."""
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batches = math.ceil(len(split.labels) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        total = 0.0
        for chosen in torch.randperm(len(split.labels)).split(BATCH):
            loss = nn.functional.cross_entropy(model(split.images[chosen]), split.labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        seconds = time.perf_counter() - started
        loss_mean = total / len(split.labels)
        print(f"epoch {epoch:2d}: loss {loss_mean:.4f}, {seconds:.1f} s", flush=True)
    return model.eval()


def write(model: nn.Module, test: Split) -> None:
    """The two files. Images are stored as float16, a third of a thousandth off at most, which
    halves the file; whoever scores them computes in float32."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, MODEL, metadata={"format": "pt"})
    first = {
        "inputs": test.images[:VALIDATION_IMAGES].half(),
        "targets": test.labels[:VALIDATION_IMAGES].clone(),
    }
    save_file(first, VALIDATION, metadata={"format": "pt"})


def stored() -> nn.Sequential:
    """The model as it is in the repository."""
    model = mlp()
    model.load_state_dict(load_file(MODEL), strict=True)
    return model.eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of the IDX files")
    parser.add_argument("--check", action="store_true", help="compare with the stored model")
    options = parser.parse_args()
    test = read_split(options.data, "t10k")
    model = train(read_split(options.data, "train"))
    if not options.check:
        write(model, test)
    validation = load_file(VALIDATION)
    now = accuracy(model, *test)
    kept = accuracy(stored(), *test)
    shown = accuracy(stored(), validation["inputs"], validation["targets"])
    print(f"test accuracy, 10,000 images: trained now {now:.2%}, model.safetensors {kept:.2%}")
    print(f"validation.safetensors, {len(validation['targets']):,} images: {shown:.2%}")
    if abs(now - kept) > TOLERANCE:
        print("the script and the stored model differ by more than half a point")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
