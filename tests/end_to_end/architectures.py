"""Models that a state_dict alone does not describe, for images of 28 x 28 in ten classes; the tests
train them, and install them in a worker as an operator installs factories."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

CLASSES = 10


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(784, 96)
        self.hidden2 = nn.Linear(96, 64)
        self.output = nn.Linear(64, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.hidden1(inputs.flatten(1)))
        return self.output(torch.relu(self.hidden2(hidden)))


class Cnn(nn.Module):
    """Strided convolutions with BatchNorm, a depthwise one, dropout and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.body = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.drop = nn.Dropout(0.2)
        self.hidden = nn.Linear(32 * 16, 48)
        self.output = nn.Linear(48, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm1(self.stem(inputs.unflatten(1, (1, 28)))))
        x = functional.hardswish(self.norm2(self.body(self.depthwise(x))))
        x = functional.max_pool2d(x, 2, ceil_mode=True)
        return self.output(self.drop(torch.relu(self.hidden(x.flatten(1)))))


class Lstm(nn.Module):
    """Reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 48, num_layers=2, batch_first=True)
        self.output = nn.Linear(48, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(inputs)
        return self.output(hidden[:, -1])


MODELS: dict[str, type[nn.Module]] = {"mlp": Mlp, "cnn": Cnn, "lstm": Lstm}


def trained(kind: str, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """Two epochs over images [n, 28, 28]; in evaluation mode."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(2):
        for chosen in torch.randperm(len(labels)).split(50):
            optimiser.zero_grad()
            functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimiser.step()
    return model.eval()


def install(folder: Path) -> str:
    """Writes the metadata of a distribution with these models as entry points, as `pip install`
    does; to be put on a worker's PYTHONPATH."""
    info = folder / "rankpress_test_architectures-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: rankpress-test-architectures\nVersion: 1.0\n"
    )
    points = "\n".join(f"test-{kind} = {__name__}:{MODELS[kind].__name__}" for kind in MODELS)
    (info / "entry_points.txt").write_text(f"[rankpress.architectures]\n{points}\n")
    return str(folder)
