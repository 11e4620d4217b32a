"""The certificate of a compressed file, recomputed from it and the original: no service needed.

By Eckart and Young, no matrix of rank k is nearer to W than its k largest singular values make it:
||W - left right||_F >= sqrt(sum of s_i^2, i > k), and in the 2-norm >= s_{k+1}. Factors that were
computed well reach both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rankpress.loading.container import Compressed, open_compressed, open_tensors
from rankpress.loading.product import multiply
from rankpress.names import Action, Aware, Kind, OutputLayout
from rankpress.schemas.manifest import ManifestLayer
from rankpress.schemas.report import LayerReport, RankReport

ABOVE_OPTIMUM = 1e-2  # how far above the bound an unweighted factorisation may lie, relative
RECOMPUTED = 1e-3  # how far a number of the report may lie from the recomputed one, relative
ROUNDINGS = 16  # of the factors' dtype: below that, errors are rounding

NOT_THE_NODES = (
    "of an ONNX model the tensors are compared, not what its nodes do with them: the evaluation in "
    "the job's report is of the whole file"
)

Tensors = Mapping[str, Callable[[], Tensor]]


@dataclass(frozen=True, kw_only=True)
class LayerCheck:
    """One factorised layer. Errors are relative: to ||W||_F, and in the 2-norm to s_1."""

    name: str
    rank: int
    relative_error: float
    optimal_relative_error: float
    spectral_error: float
    optimal_spectral_error: float
    rounding: float  # of the factors' dtype, relative: no error below this says anything


class _NoCheck(Exception):
    """Why a layer cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """`links` are the checksums that were compared, in words; `problems` what is wrong; `notes`
    what was not looked at."""

    layers: tuple[LayerCheck, ...]
    unchanged: int
    links: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    file: Path,
    original: Path,
    original_files: Sequence[Path],
    report: RankReport | None = None,
) -> Verification:
    """Every factorised layer against its original, every other tensor bit for bit, and with
    `report` the checksums and the numbers that it states. `original_files` are the files that
    `original` consists of.

    Raises `UnreadableFile`, `NotCompressed`, `FileNotFoundError`.
    """
    links, problems = _chain(file, original_files, report)
    reported = {layer.name: layer for layer in report.layers} if report else {}
    # Only a report says that the factors are of the weights alone: others lie above the bound,
    # by as much as the data says, and their biases are corrected. Refitted ones are made for other
    # inputs than the weight was, and may lie anywhere.
    plain = report is not None and report.aware is Aware.NONE
    with open_compressed(file) as compressed:
        layers, is_graph = _layers(compressed, report), compressed.is_graph
        names = {layer.name for layer in layers}
        with open_tensors(original, names) as dense:
            checks = []
            for layer in layers:
                if layer.name not in dense:
                    problems.append(f"{layer.name}: the original holds no such tensor")
                    continue
                try:
                    check = _layer(compressed, layer, dense[layer.name]())
                except _NoCheck as error:
                    problems.append(f"{layer.name}: {error}")
                    continue
                checks.append(check)
                problem = None if layer.refitted else _wrong(check, plain=plain)
                if problem is None and report is not None:
                    problem = _against(check, reported.get(layer.name))
                if problem is not None:
                    problems.append(f"{layer.name}: {problem}")
            unchanged, changed = _others(compressed, dense, names, report, corrected=not plain)
    return Verification(
        layers=tuple(checks),
        unchanged=unchanged,
        links=tuple(links),
        problems=(*problems, *changed),
        notes=(NOT_THE_NODES,) if is_graph else (),
    )


def _chain(
    file: Path, original_files: Sequence[Path], report: RankReport | None
) -> tuple[list[str], list[str]]:
    """From the input's checksum to the output's and to that of what was scored."""
    if report is None:
        return [], []
    links: list[str] = []
    problems: list[str] = []
    sums = sorted(_sha256(path) for path in original_files)
    compared = [("the original", sums, sorted(report.input_sha256), "the job's input")]
    if not file.is_dir():
        output = [_sha256(file)]
        compared.append(("the file", output, [report.output_sha256], "the job's output"))
    if report.evaluation is not None:
        scored = [report.evaluation.artifact_sha256]
        compared.append(("what was scored", scored, [report.output_sha256], "the job's output"))
    for what, found, wanted, whose in compared:
        if found == wanted:
            links.append(f"{what} is {whose}: {', '.join(found)}")
        else:
            problems.append(
                f"{what} is not {whose}: SHA-256 {', '.join(found)}, the report says "
                f"{', '.join(wanted)}"
            )
    return links, problems


def _layers(compressed: Compressed, report: RankReport | None) -> tuple[ManifestLayer, ...]:
    """What was factorised. A file of the dense layout does not say; the report does."""
    manifest = compressed.manifest
    if manifest.layout is OutputLayout.FACTORS or report is None:
        return manifest.layers
    return tuple(
        ManifestLayer(
            name=layer.name,
            shape=layer.shape,
            dtype=layer.dtype,
            kind=layer.kind,
            rank=layer.rank,
            rule=layer.rule or report.rule,
            threshold=layer.threshold,
            right=layer.name,
            left=layer.name,
            refitted=layer.refitted is True,
        )
        for layer in report.layers
        if layer.action is Action.FACTORISED and layer.rank is not None
    )


def _layer(compressed: Compressed, layer: ManifestLayer, dense: Tensor) -> LayerCheck:
    """Measured in float64. Raises _NoCheck."""
    if tuple(dense.shape) != layer.shape:
        shapes = f"{list(dense.shape)}, of the file's layer {list(layer.shape)}"
        raise _NoCheck(f"the original's shape is {shapes}")
    ranks = layer.ranks
    if compressed.manifest.layout is OutputLayout.DENSE:
        product = compressed.load(layer.name).double()
    else:
        right, left = (compressed.load(key).double() for key in (layer.right, layer.left))
        product = multiply(layer.kind, layer.shape, right, left)
        if layer.kind is Kind.EXPERTS:  # padded with zeros to the largest rank
            ranks = tuple(int(r_KN.any(dim=1).sum()) for r_KN in right)
    if not dense.isfinite().all() or not dense.any():
        raise _NoCheck("the original is zero, or not all of it is finite")
    if not product.isfinite().all():
        raise _NoCheck("the factors' product is not finite")
    exact, found = _matrices(layer, dense.double()), _matrices(layer, product)
    ranks = ranks or (layer.rank,) * len(exact)
    energy = error = optimum = 0.0
    spectral = least = largest = 0.0
    for w, approximation, rank in zip(exact, found, ranks, strict=True):
        s = torch.linalg.svdvals(w)
        energy += float(w.square().sum())
        error += float((w - approximation).square().sum())
        optimum += float(s[rank:].square().sum())
        spectral = max(spectral, float(torch.linalg.matrix_norm(w - approximation, ord=2)))
        least = max(least, float(s[rank]) if rank < len(s) else 0.0)
        largest = max(largest, float(s[0]))
    return LayerCheck(
        name=layer.name,
        rank=layer.rank,
        relative_error=math.sqrt(error / energy),
        optimal_relative_error=math.sqrt(optimum / energy),
        spectral_error=spectral / largest,
        optimal_spectral_error=least / largest,
        rounding=ROUNDINGS * torch.finfo(dense.dtype).eps,
    )


def _matrices(layer: ManifestLayer, tensor: Tensor) -> tuple[Tensor, ...]:
    """The matrices [M, N] that a stored tensor is read as, one for each expert."""
    match layer.kind:
        case Kind.EXPERTS:
            return tensor.unbind(0)
        case Kind.CONVOLUTION_SPATIAL:
            out, into, kh, kw = layer.shape
            return (tensor.permute(0, 2, 1, 3).reshape(out * kh, into * kw),)
        case _:
            return (tensor.reshape(layer.shape[0], -1),)


def _wrong(check: LayerCheck, *, plain: bool) -> str | None:
    limit = (1 + ABOVE_OPTIMUM) * check.optimal_relative_error + check.rounding if plain else 1.0
    if check.relative_error <= limit:
        return None
    return (
        f"relative error {check.relative_error:.4g}, where {check.optimal_relative_error:.4g} is "
        f"possible at rank {check.rank}"
    )


def _against(check: LayerCheck, told: LayerReport | None) -> str | None:
    """What the report says of the layer, against what was found."""
    if told is None or told.action is not Action.FACTORISED:
        return "factorised in the file, but not in the report"
    if told.rank != check.rank:
        return f"rank {check.rank} in the file, {told.rank} in the report"
    stated = (
        ("relative_error", told.relative_error, check.relative_error),
        ("optimal_relative_error", told.optimal_relative_error, check.optimal_relative_error),
    )
    for name, value, found in stated:
        if value is not None and abs(value - found) > RECOMPUTED * found + check.rounding:
            return f"{name} is {found:.6g}, the report says {value:.6g}"
    return None


def _others(
    compressed: Compressed,
    dense: Tensors,
    factorised: set[str],
    report: RankReport | None,
    *,
    corrected: bool,
) -> tuple[int, list[str]]:
    """How many of the tensors that are no factors equal the original bit for bit, and what is said
    of the others. With `corrected`, the biases of factorised layers may differ."""
    manifest = compressed.manifest
    aliases = {**manifest.aliases, **(_tied(report) if report else {})}
    biases = dict(layer.bias for layer in manifest.layers if layer.bias is not None)
    unchanged, problems = 0, []
    dense_layout = manifest.layout is OutputLayout.DENSE
    hint = "" if factorised or not dense_layout else "; of a dense layout the report says what was"
    for name, load in dense.items():
        if name in factorised:
            continue
        kept = aliases.get(name, name)
        key = kept if dense_layout else biases.get(kept, kept)
        if kept in factorised:
            continue  # tied to a layer that was factorised
        if key not in compressed.shapes:
            problems.append(f"{name}: the file holds no such tensor")
        elif _same_bits(load(), compressed.load(key)):
            unchanged += 1
        elif not (corrected and kept in biases):
            problems.append(f"{name}: it was not factorised, and differs from the original{hint}")
    return unchanged, problems


def _tied(report: RankReport) -> dict[str, str]:
    """The names that stand for a factorised tensor; a dense layout holds them all."""
    factorised = {layer.name for layer in report.layers if layer.action is Action.FACTORISED}
    return {
        layer.name: layer.alias_of
        for layer in report.layers
        if layer.alias_of is not None and layer.alias_of in factorised
    }


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """nan equals nan here, and 0 is not -0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == torch.bool or one.numel() == 0:
        return bool((one == other).all())
    a, b = one.contiguous().reshape(-1), other.contiguous().reshape(-1)
    return bool(torch.equal(a.view(torch.uint8), b.view(torch.uint8)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
