"""The certificate: right files pass for each kind of view, and each kind of tampering is told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rankpress.loading import NotCompressed
from rankpress.loading.verifying import Verification, verify
from rankpress.names import Action, Aware, Kind, OutputLayout
from rankpress.schemas.manifest import METADATA_KEY, Manifest
from rankpress.schemas.report import LayerReport, RankReport
from tests.rankpress.client.fakeservice import make_report
from tests.rankpress.loading.compressing_by_hand import Cut, compress, write

CUTS = [
    Cut("fc.weight", Kind.MATRIX, 3),
    Cut("conv.weight", Kind.CONVOLUTION, 4),
    Cut("square.weight", Kind.CONVOLUTION_SPATIAL, 5),
    Cut("experts.w", Kind.EXPERTS, 2),
]


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "fc.weight": torch.randn(9, 14),
        "fc.bias": torch.randn(9),
        "conv.weight": torch.randn(8, 5, 3, 3),
        "square.weight": torch.randn(6, 7, 3, 3),
        "experts.w": torch.randn(3, 8, 40),
        "flags": torch.tensor([True, False]),
        "steps": torch.tensor(7),
        "odd": torch.tensor([float("nan"), -0.0]),
        "empty": torch.zeros(0, 4),
    }


class Files:
    def __init__(self, folder: Path, **options: Any) -> None:
        self.original = folder / "net.safetensors"
        save_file(state(), self.original)
        tensors, self.manifest, _ = compress(state(), CUTS, **options)
        self.file = write(folder / "small.safetensors", tensors, self.manifest)

    def change(self, key: str, value: Tensor | None) -> None:
        tensors = load_file(self.file)
        tensors.pop(key)
        if value is not None:
            tensors[key] = value
        write(self.file, tensors, self.manifest)

    def check(self, report: RankReport | None = None) -> Verification:
        return verify(self.file, self.original, [self.original], report)

    def report(self, **more: Any) -> RankReport:
        """What the service would say of these files."""
        layers = tuple(
            LayerReport(
                name=check.name,
                shape=(1,),
                kind=Kind.MATRIX,
                dtype="float32",
                action=Action.FACTORISED,
                rank=check.rank,
                relative_error=check.relative_error,
                optimal_relative_error=check.optimal_relative_error,
                parameters_before=1,
                parameters_after=1,
                bytes_before=1,
                bytes_after=1,
            )
            for check in self.check().layers
        )
        sums = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (self.original, self.file)]
        report = make_report(b"", layers=layers)
        assert report.evaluation is not None
        scored = report.evaluation.model_copy(update={"artifact_sha256": sums[1]})
        return report.model_copy(
            update={
                "input_sha256": (sums[0],),
                "output_sha256": sums[1],
                "evaluation": scored,
                **more,
            }
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_bounds_are_those_of_eckart_and_young(files: Files) -> None:
    found = files.check()
    assert found.ok
    assert found.unchanged == 5
    matrices = {
        "fc.weight": [state()["fc.weight"].numpy()],
        "conv.weight": [state()["conv.weight"].reshape(8, -1).numpy()],
        "square.weight": [state()["square.weight"].permute(0, 2, 1, 3).reshape(18, 21).numpy()],
        "experts.w": list(state()["experts.w"].numpy()),
    }
    assert [c.name for c in found.layers] == list(matrices)
    for check in found.layers:
        spectra = [
            np.linalg.svd(m.astype(np.float64), compute_uv=False) for m in matrices[check.name]
        ]
        total = sum((s**2).sum() for s in spectra)
        tail = sum((s[check.rank :] ** 2).sum() for s in spectra)
        assert check.optimal_relative_error == pytest.approx((tail / total) ** 0.5, rel=1e-9)
        largest = max(s[0] for s in spectra)
        least = max(s[check.rank] for s in spectra) / largest
        assert check.optimal_spectral_error == pytest.approx(least, rel=1e-9)
        # The factors were truncated singular vectors, so that both bounds are reached.
        assert check.relative_error == pytest.approx(check.optimal_relative_error, rel=1e-5)
        assert check.spectral_error == pytest.approx(check.optimal_spectral_error, rel=1e-4)
        assert check.relative_error >= check.optimal_relative_error * (1 - 1e-6)


def test_the_chain_of_checksums(files: Files) -> None:
    found = files.check(files.report())
    assert found.ok
    assert [link.split(":")[0] for link in found.links] == [
        "the original is the job's input",
        "the file is the job's output",
        "what was scored is the job's output",
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"input_sha256": ("0" * 64,)}, "the original is not the job's input: SHA-256 "),
        ({"output_sha256": "0" * 64}, "the file is not the job's output: SHA-256 "),
    ],
)
def test_other_files_than_the_report_is_of(
    files: Files, changes: dict[str, Any], problem: str
) -> None:
    found = files.check(files.report(**changes))
    assert any(told.startswith(problem) for told in found.problems)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("rank", 4, "rank 3 in the file, 4 in the report"),
        ("relative_error", 0.01, "the report says 0.01"),
        ("optimal_relative_error", 0.01, "the report says 0.01"),
        ("action", Action.KEPT_DENSE, "factorised in the file, but not in the report"),
    ],
)
def test_numbers_that_the_report_did_not_say(
    files: Files, field: str, value: Any, problem: str
) -> None:
    report = files.report()
    first = report.layers[0].model_copy(update={field: value})
    (told,) = files.check(
        report.model_copy(update={"layers": (first, *report.layers[1:])})
    ).problems
    assert told.startswith("fc.weight: ")
    assert problem in told


def test_factors_above_what_is_possible(files: Files) -> None:
    """A little worse is only known to be wrong when the report says that nothing but the weights
    decided."""
    left = load_file(files.file)["fc.1.weight"]
    files.change("fc.1.weight", left * 1.3)
    assert files.check().ok
    report = files.report()
    (told,) = files.check(report).problems
    assert "is possible at rank 3" in told
    layers = tuple(x.model_copy(update={"optimal_relative_error": None}) for x in report.layers)
    assert files.check(report.model_copy(update={"aware": Aware.INPUTS, "layers": layers})).ok


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("fc.0.weight", -torch.randn(3, 14) * 9, "is possible at rank 3"),
        ("fc.0.weight", torch.full((3, 14), float("nan")), "product is not finite"),
        ("odd", torch.tensor([float("nan"), 0.0]), "odd: it was not factorised, and differs"),
        ("odd", torch.zeros(2, dtype=torch.float64), "odd: it was not factorised, and differs"),
        ("flags", torch.tensor([True, True]), "flags: it was not factorised, and differs"),
        ("steps", None, "steps: the file holds no such tensor"),
    ],
)
def test_what_was_changed_is_told(
    files: Files, key: str, value: Tensor | None, problem: str
) -> None:
    files.change(key, value)
    (told,) = files.check().problems
    assert problem in told


def test_a_bias_may_differ_where_the_factors_may_be_aware(files: Files) -> None:
    files.change("fc.1.bias", torch.zeros(9))
    assert files.check().ok
    (told,) = files.check(files.report()).problems
    assert told == "fc.bias: it was not factorised, and differs from the original"
    report = files.report(aware=Aware.TWO_SIDED)
    assert files.check(report).ok


def test_an_original_of_another_shape_or_without_the_layer(files: Files) -> None:
    other = state()
    other["fc.weight"] = torch.randn(9, 15)
    other.pop("experts.w")
    save_file(other, files.original)
    found = files.check()
    assert found.problems == (
        "fc.weight: the original's shape is [9, 15], of the file's layer [9, 14]",
        "experts.w: the original holds no such tensor",
    )


def test_a_dense_layout(tmp_path: Path) -> None:
    """The file holds the products under the original names and lists no layers."""
    files = Files(tmp_path)
    kinds = {cut.name: cut.kind for cut in CUTS}
    report = files.report()
    layers = tuple(
        layer.model_copy(
            update={"kind": kinds[layer.name], "shape": tuple(state()[layer.name].shape)}
        )
        for layer in report.layers
    )
    _, _, reference = compress(state(), CUTS)
    dense = Manifest(layout=OutputLayout.DENSE, layers=())
    write(files.file, {k: v.contiguous() for k, v in reference.items()}, dense)
    output = hashlib.sha256(files.file.read_bytes()).hexdigest()
    assert report.evaluation is not None
    found = files.check(
        report.model_copy(
            update={
                "layers": layers,
                "output_sha256": output,
                "evaluation": report.evaluation.model_copy(update={"artifact_sha256": output}),
            }
        )
    )
    assert found.problems == ()
    assert [(c.name, c.rank) for c in found.layers] == [(c.name, c.rank) for c in CUTS]
    told = files.check().problems
    assert len(told) == len(CUTS)
    assert all(x.endswith("of a dense layout the report says what was") for x in told)


def test_experts_of_different_ranks(files: Files) -> None:
    """The smaller are padded with zeros; each is held to what its own rank allows."""
    right = load_file(files.file)["experts.w.right"].clone()
    right[1, 1:] = 0
    files.change("experts.w.right", right)
    (check,) = (c for c in files.check().layers if c.name == "experts.w")
    spectra = [np.linalg.svd(w.double().numpy(), compute_uv=False) for w in state()["experts.w"]]
    tail = sum((s[k:] ** 2).sum() for s, k in zip(spectra, (2, 1, 2), strict=True))
    total = sum((s**2).sum() for s in spectra)
    assert check.optimal_relative_error == pytest.approx((tail / total) ** 0.5, rel=1e-9)
    assert check.relative_error == pytest.approx(check.optimal_relative_error, rel=1e-5)


def test_tied_names_and_nested_originals(tmp_path: Path) -> None:
    tied = {**state(), "head.weight": state()["fc.weight"], "twin": state()["odd"]}
    torch.save(
        {"epoch": 3, "model": {"state": tied}, "other": {"x": torch.ones(1)}}, tmp_path / "o"
    )
    tensors, manifest, _ = compress(tied, CUTS, aliases={"head.weight": "fc.weight", "twin": "odd"})
    file = write(tmp_path / "f", tensors, manifest)
    found = verify(file, tmp_path / "o", [tmp_path / "o"])
    assert found.ok
    assert found.unchanged == 6


def test_a_file_that_was_not_compressed_here(files: Files) -> None:
    with pytest.raises(NotCompressed):
        verify(files.original, files.original, [files.original])


def test_nothing_factorised_is_a_whole_certificate(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "o")
    metadata = {METADATA_KEY: Manifest(layers=()).model_dump_json()}
    save_file(state(), tmp_path / "f", metadata=metadata)
    found = verify(tmp_path / "f", tmp_path / "o", [tmp_path / "o"])
    assert (found.ok, found.layers, found.unchanged) == (True, (), 9)
