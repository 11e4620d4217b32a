"""The example's files, its documentation and its training script agree."""

import gzip
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fashion_mnist_train", FOLDER / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


train = _script()


def documented(images: str) -> float:
    """The accuracy in the README's table, in the row of so many images."""
    row = re.search(rf"^\| ([\d.]+) % \| {images} \|", (FOLDER / "README.md").read_text(), re.M)
    assert row is not None
    return float(row[1]) / 100


def test_validation_accuracy_is_the_documented_one() -> None:
    data = load_file(FOLDER / "validation.safetensors")
    got = train.accuracy(train.stored(), data["inputs"], data["targets"])
    assert got == pytest.approx(documented("2,000"), abs=0.0005)


def test_model_is_the_documented_float32_state_dict() -> None:
    state = load_file(FOLDER / "model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes == {
        "hidden1.weight": (512, 784),
        "hidden1.bias": (512,),
        "hidden2.weight": (256, 512),
        "hidden2.bias": (256,),
        "output.weight": (10, 256),
        "output.bias": (10,),
    }
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_validation_file_holds_scaled_images_of_every_class() -> None:
    data = load_file(FOLDER / "validation.safetensors")
    assert data["inputs"].shape == (2000, 784)
    assert data["inputs"].dtype == torch.float16
    assert data["targets"].dtype == torch.int64
    assert data["inputs"].min().item() == 0
    assert data["inputs"].max().item() == 1
    assert torch.bincount(data["targets"], minlength=10).min().item() > 150


@pytest.mark.parametrize("name", ["model.safetensors", "validation.safetensors"])
def test_files_carry_the_format_that_loaders_ask_for(name: str) -> None:
    with safe_open(FOLDER / name, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_readme_code_loads_the_model_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.S)
    assert code is not None
    monkeypatch.chdir(FOLDER)
    names: dict[str, object] = {}
    exec(code[1], names)
    assert isinstance(names["model"], torch.nn.Sequential)


def test_idx_reader_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00"))
    with pytest.raises(ValueError, match="not an IDX file"):
        train.read_idx(path)
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05ab"))
    with pytest.raises(ValueError, match="2 bytes for the shape"):
        train.read_idx(path)


needs_data = pytest.mark.skipif(
    not train.DEBIAN_FOLDER.is_dir(),
    reason="needs the data set: apt-get install dataset-fashion-mnist",
)


@needs_data
def test_validation_file_is_the_start_of_the_test_set() -> None:
    data = load_file(FOLDER / "validation.safetensors")
    test = train.read_split(train.DEBIAN_FOLDER, "t10k")
    assert torch.equal(data["inputs"], test.images[:2000].half())
    assert torch.equal(data["targets"], test.labels[:2000])


@needs_data
def test_test_set_accuracy_is_the_documented_one() -> None:
    test = train.read_split(train.DEBIAN_FOLDER, "t10k")
    got = train.accuracy(train.stored(), *test)
    assert got == pytest.approx(documented("10,000"), abs=0.0005)


@needs_data
@pytest.mark.slow
def test_training_again_gives_the_documented_accuracy_within_half_a_point() -> None:
    """In a process of its own, since it fixes torch's threads and determinism."""
    run = subprocess.run(
        [sys.executable, FOLDER / "train.py", "--check"],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    now = re.search(r"trained now ([\d.]+)%", run.stdout)
    assert now is not None
    assert float(now[1]) / 100 == pytest.approx(documented("10,000"), abs=0.005)
