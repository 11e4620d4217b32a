"""MNIST and Fashion-MNIST: the MLP of the method's table on each, the public CNN on the second."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.real.scored import Part, Subject
from benchmarks.reproduce.data import load
from benchmarks.reproduce.models import loaded, trained

NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
KINDS = {"mnist": ("mlp",), "fashion_mnist": ("mlp", "cnn")}
SHAPES = {"mlp": (-1, 784), "cnn": (-1, 1, 28, 28)}
CALIBRATION = 256


def subjects() -> Iterator[Subject]:
    """Trained here when they are not in the cache; scored on the 10,000 test images."""
    for name, kinds in KINDS.items():
        data = load(name)
        for kind in kinds:
            shape = SHAPES[kind]
            images = data.test.images.reshape(shape)
            yield Subject(
                name=f"{NAMES[name]}, {kind.upper()}",
                model=loaded(trained(data, kind, 0), kind).eval(),
                scored=Part(inputs={"input": images}, targets=data.test.labels),
                calibration={"input": data.train.images[:CALIBRATION].reshape(shape)},
                examples={"input": images[:2]},
            )
