"""Kept tridiagonal forms: the same bits with them and without, and never more than allowed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.worker.pipelinekit import run
from tests.worker.spectra import matrix
from worker.linalg import drivers
from worker.linalg.kept import Forms
from worker.linalg.kept_folder import UNUSED_SECONDS, prune
from worker.linalg.spectrum import decompose

PLENTY = 10**9
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def no_decomposition(*_: object) -> NoReturn:
    raise AssertionError("this was decomposed before")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(300, 150), (150, 300)], ids=str)
@pytest.mark.parametrize("turned", [False, True], ids=["as stored", "transposed view"])
def test_the_second_time_gives_the_same_bits_without_a_decomposition(
    turned: bool,
    shape: tuple[int, int],
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = matrix("power", *shape, dtype)
    weight = weight.T if turned else weight
    forms = Forms(tmp_path / "caller", PLENTY)
    fresh, first = decompose(weight), decompose(weight, forms=forms)
    for d in (fresh, first):
        d.refine()  # float64, too, where that is another driver
    monkeypatch.setattr(drivers, "_form", no_decomposition)
    second = decompose(weight.clone(), forms=forms)
    second.refine()
    assert second.driver == first.driver == fresh.driver
    for d in (first, second):
        assert np.array_equal(d.singular_values, fresh.singular_values)
        for found, expected in zip(d.factors(40), fresh.factors(40), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("aware", ["none", "two_sided"])
def test_another_job_on_the_same_layers(
    aware: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = {"0.weight": torch.randn(150, 200), "2.weight": torch.randn(170, 150)}
    samples = {"inputs": torch.randn(300, 200), "targets": torch.arange(300) % 170}
    for name, tensors in (("model", model), ("samples", samples)):
        save_file(tensors, tmp_path / name)
    about = {"aware": aware, "evaluation": {"validation": "v"}, "protect_output": False}
    files = {"validation": tmp_path / "samples"}

    def job(name: str, share: float, forms: Path | None) -> bytes:
        folder = tmp_path / name
        folder.mkdir()
        rule = {"rule": "budget", "budget": {"parameters": share}}
        (done,) = run(folder, tmp_path / "model", files=files, forms=forms, **rule, **about)
        return done.path.read_bytes()

    job("first", 0.5, tmp_path / "forms" / "caller")
    expected = job("without", 0.3, None)
    monkeypatch.setattr(drivers, "_form", no_decomposition)
    assert job("second", 0.3, tmp_path / "forms" / "caller") == expected


def test_another_matrix_is_another_form(tmp_path: Path) -> None:
    forms = Forms(tmp_path / "caller", PLENTY)
    weight = matrix("power", 300, 150, torch.float32)
    decompose(weight, forms=forms)
    changed = weight.clone()
    changed[7, 5] = torch.nextafter(changed[7, 5], torch.tensor(9.0))
    same_numbers = (weight.reshape(150, 300), weight.double())
    for other in (changed, *same_numbers):
        d, fresh = decompose(other, forms=forms), decompose(other)
        assert np.array_equal(d.singular_values, fresh.singular_values)
    assert len(files(tmp_path)) == 4


def test_callers_do_not_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix("power", 300, 150, torch.float32)
    decompose(weight, forms=Forms(tmp_path / "one", PLENTY))
    decompose(weight, forms=Forms(tmp_path / "other", PLENTY))
    assert len(files(tmp_path / "one")) == len(files(tmp_path / "other")) == 1


@pytest.mark.parametrize("damage", ["cut", "a bit", "empty", "gone"])
def test_a_damaged_file_is_computed_anew(damage: str, tmp_path: Path) -> None:
    forms = Forms(tmp_path / "caller", PLENTY)
    weight = matrix("power", 300, 150, torch.float32)
    expected = decompose(weight, forms=forms).singular_values
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(whole[:-1000])
        case "a bit":
            path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
    assert np.array_equal(decompose(weight, forms=forms).singular_values, expected)
    assert path.read_bytes() == whole


def test_small_and_huge_ones_are_not_kept(tmp_path: Path) -> None:
    decompose(matrix("power", 300, 100, torch.float32), forms=Forms(tmp_path / "c", PLENTY))
    decompose(matrix("power", 300, 150, torch.float32), forms=Forms(tmp_path / "c", 300_000))
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "caller").write_text("a file where the folder should be")
    weight = matrix("power", 300, 150, torch.float32)
    d = decompose(weight, forms=Forms(tmp_path / "caller", PLENTY))
    assert np.array_equal(d.singular_values, decompose(weight).singular_values)


def test_pruning_keeps_what_was_used_last(tmp_path: Path) -> None:
    now = time.time()
    for folder, name, age in (("a", "old", 500), ("a", "new", 10), ("b", "middle", 100)):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 1000)
        os.utime(path, (now - age, now - age))
    prune(tmp_path, 2500)
    assert [path.name for path in files(tmp_path)] == ["new", "middle"]
    prune(tmp_path, 1000)
    assert [path.name for path in files(tmp_path)] == ["new"]


def test_what_is_read_was_used(tmp_path: Path) -> None:
    forms = Forms(tmp_path / "caller", PLENTY)
    weight = matrix("power", 300, 150, torch.float32)
    decompose(weight, forms=forms)
    (path,) = files(tmp_path)
    long_ago = time.time() - UNUSED_SECONDS + 60
    os.utime(path, (long_ago, long_ago))
    decompose(weight, forms=forms)
    assert path.stat().st_mtime > long_ago + 60
    os.utime(path, (long_ago - 120, long_ago - 120))
    forms.prune()
    assert files(tmp_path) == []
