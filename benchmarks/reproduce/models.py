"""The networks of the table, trained here: kept in the cache by data set, name and seed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.reproduce.data import CACHE, DataSet, Split
from benchmarks.reproduce.image_networks import resnet, vgg

BATCH = 128
LEARNING_RATE = 1e-3
MLP_EPOCHS = 8
CNN_EPOCHS, CNN_BATCH = 5, 64  # the anchor's published recipe
IMAGE_EPOCHS = 5


def mlp() -> nn.Sequential:
    """METHOD's network: 784-1024-1024-512-10, 2.4 M weights."""
    widths = (784, 1024, 1024, 512, 10)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (n, m) in enumerate(pairwise(widths), start=1):
        layers[f"fc{i}"] = nn.Linear(n, m)
        layers[f"relu{i}"] = nn.ReLU()
    del layers["relu4"]
    return nn.Sequential(layers)


def cnn() -> nn.Sequential:
    """The public anchor: conv32-conv64-fc128-fc10, 421,642 parameters."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 64, 3, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            fc1=nn.Linear(3136, 128),
            relu3=nn.ReLU(),
            fc2=nn.Linear(128, 10),
        )
    )


NETWORKS: Mapping[str, Callable[[], nn.Sequential]] = {
    "mlp": mlp,
    "cnn": cnn,
    "vgg": vgg,
    "resnet": resnet,
}
IMAGE_NETWORKS = ("vgg", "resnet")
SHAPES = {kind: (-1, 784) if kind == "mlp" else (-1, 1, 28, 28) for kind in NETWORKS}


def trained(data: DataSet, kind: str, seed: int) -> Path:
    """The checkpoint's path; trains when it is not there. A fixed seed gives the same weights on
    the same machine and number of threads.

    The name has the number of training images: with another split, a network in the cache may have
    seen what is now held out.
    """
    path = CACHE / f"{data.name}-{kind}-{seed}-of-{len(data.train.labels)}.safetensors"
    if path.exists():
        return path
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the order of a sum depends on it
    model = NETWORKS[kind]()
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    epochs = {"mlp": MLP_EPOCHS, "cnn": CNN_EPOCHS}.get(kind, IMAGE_EPOCHS)
    batch = CNN_BATCH if kind == "cnn" else BATCH
    fit(model, data.train, optimiser, epochs, batch, SHAPES[kind], cosine=kind != "cnn")
    save_file({key: value.detach() for key, value in model.state_dict().items()}, path)
    return path


def fit(
    model: nn.Module,
    data: Split,
    optimiser: torch.optim.Optimizer,
    epochs: int,
    batch: int,
    shape: tuple[int, ...],
    *,
    cosine: bool,
) -> None:
    """Cross entropy; the learning rate falls to zero along a cosine, or stays."""
    steps = epochs * (len(data.labels) // batch)
    step = 0
    for epoch in range(epochs):
        order = torch.randperm(len(data.labels))
        total = 0.0
        for places in order[: len(order) // batch * batch].split(batch):
            if cosine:
                rate = 0.5 * LEARNING_RATE * (1 + math.cos(math.pi * step / steps))
                for group in optimiser.param_groups:
                    group["lr"] = rate
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(
                model(data.images[places].reshape(shape)), data.labels[places]
            )
            loss.backward()
            optimiser.step()
            total += float(loss.detach())
            step += 1
        print(f"  epoch {epoch + 1}/{epochs}: loss {total * epochs / steps:.4f}", flush=True)


def accuracy(model: nn.Module, data: Split, shape: tuple[int, ...] = (-1, 784)) -> float:
    """The share of right answers."""
    hits = 0
    with torch.inference_mode():
        for images, labels in zip(data.images.split(1000), data.labels.split(1000), strict=True):
            answers: Tensor = model.eval()(images.reshape(shape))
            hits += int((answers.argmax(dim=1) == labels).sum())
    return hits / len(data.labels)


def loaded(path: Path, kind: str) -> nn.Sequential:
    model = NETWORKS[kind]()
    model.load_state_dict(load_file(path))
    return model
