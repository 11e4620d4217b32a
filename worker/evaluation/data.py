"""Validation data: checked once before any factorisation, then given out batch by batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from rankpress.errors import EvaluationMismatch
from worker.evaluation.architecture import InputSpec
from worker.evaluation.arrayfile import NUMBER_DTYPES, ArrayFile, ArrayInfo
from worker.evaluation.arrays import open_arrays
from worker.evaluation.targets import TARGETS, TargetRule

# A deflated archive may declare rows far larger than itself; one batch is what memory must hold.
MAX_BATCH_BYTES = 2**30
PAIR = "_pair"  # suffix of the second member of a pair, for embeddings scored by similarity


@dataclass(frozen=True, kw_only=True)
class Part:
    """Every sample i of a file of `rows` with i % modulus in `residues`."""

    rows: int
    modulus: int
    residues: frozenset[int]

    def within(self, start: int, count: int) -> list[int]:
        """Places, counted from `start`, of the part's samples among `count`."""
        return [i for i in range(count) if (start + i) % self.modulus in self.residues]


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """What is read of the validation file, and how."""

    samples: int
    batch_size: int
    inputs: tuple[InputSpec, ...]
    compute_dtype: torch.dtype
    has_targets: bool
    paired: bool  # every input comes twice, the second as `<name>_pair`
    notes: tuple[str, ...] = ()
    part: Part | None = None  # of the file's samples; None: all

    @property
    def batches(self) -> int:
        """How many are read; of a part they are smaller."""
        rows = self.samples if self.part is None else self.part.rows
        return -(-rows // self.batch_size)

    def only(self, modulus: int, residues: Collection[int]) -> DataPlan:
        """The plan of the samples i with i % modulus in `residues`. Spread over the file, since
        files are often sorted by class."""
        if self.part is not None:
            raise ValueError("this is a part already")
        part = Part(rows=self.samples, modulus=modulus, residues=frozenset(residues))
        return replace(self, part=part, samples=len(part.within(0, self.samples)))


@dataclass(frozen=True, kw_only=True)
class Batch:
    inputs: dict[str, torch.Tensor]
    pairs: dict[str, torch.Tensor] | None
    targets: torch.Tensor | None


def width_of(path: Path, name: str) -> int:
    """Values per sample of an array, from the header alone. Raises EvaluationMismatch."""
    with open_arrays(path) as file:
        info = file.arrays.get(name)
        if info is None:
            raise EvaluationMismatch(
                f"The validation file has no array {name!r}; it has {_listed(file.arrays)}."
            )
        if not info.shape:
            raise EvaluationMismatch(f"The array {name!r} is a single number, not samples.")
        return prod(info.shape[1:])


def arrays_of(path: Path) -> Mapping[str, ArrayInfo]:
    """What the file's header says, each array with samples. Raises EvaluationMismatch."""
    with open_arrays(path) as file:
        if flat := [name for name, info in file.arrays.items() if not info.shape]:
            raise EvaluationMismatch(
                f"{_listed(flat)} is a single number; one row a sample is wanted."
            )
        return dict(file.arrays)


def check_data(
    path: Path,
    *,
    inputs: tuple[InputSpec, ...],
    compute_dtype: torch.dtype,
    rule: TargetRule,
    batch_size: int,
) -> DataPlan:
    """Reads the whole file once, a batch at a time.

    Raises EvaluationMismatch naming the array, and the sample where there is one.
    """
    with open_arrays(path) as file:
        plan = _plan(file, inputs, compute_dtype, rule, batch_size)
        start = 0
        for batch in _batches(file, plan):
            for tensors, suffix in ((batch.inputs, ""), (batch.pairs or {}, PAIR)):
                for name, tensor in tensors.items():
                    _check_finite(name + suffix, tensor, start)
            if batch.targets is not None:
                rule.check_values(batch.targets, batch.inputs, start)
            start += next(iter(batch.inputs.values())).shape[0]
        return plan


def check_inputs(
    path: Path, *, inputs: tuple[InputSpec, ...], compute_dtype: torch.dtype, batch_size: int
) -> DataPlan:
    """The plan of a file that the model is only run on: its inputs are read, whatever else there
    is. Raises EvaluationMismatch, as `check_data` does."""
    with open_arrays(path) as file:
        names = [spec.name for spec in inputs]
        if missing := [name for name in names if name not in file.arrays]:
            raise EvaluationMismatch(
                f"The calibration file has no array {_listed(missing)}, which the model takes; it "
                f"has {_listed(file.arrays)}."
            )
        samples = _same_length({name: file.arrays[name] for name in names})
        for spec in inputs:
            _check_input(spec, file.arrays[spec.name])
        plan = DataPlan(
            samples=samples,
            batch_size=batch_size,
            inputs=inputs,
            compute_dtype=compute_dtype,
            has_targets=False,
            paired=False,
        )
        start = 0
        for batch in _batches(file, plan):
            for name, tensor in batch.inputs.items():
                _check_finite(name, tensor, start)
            start += next(iter(batch.inputs.values())).shape[0]
        return plan


def read_batches(path: Path, plan: DataPlan) -> Iterator[Batch]:
    """The batches of a file that `check_data` accepted, inputs cast to what the model takes."""
    with open_arrays(path) as file:
        yield from _batches(file, plan)


def _chosen(
    batches: Iterator[dict[str, torch.Tensor]], part: Part | None
) -> Iterator[dict[str, torch.Tensor]]:
    start = 0
    for arrays in batches:
        count = next(iter(arrays.values())).shape[0]
        places = list(range(count)) if part is None else part.within(start, count)
        start += count
        if places and part is not None:
            arrays = {name: tensor[places] for name, tensor in arrays.items()}
        if places:
            yield arrays


def _batches(file: ArrayFile, plan: DataPlan) -> Iterator[Batch]:
    names = [spec.name for spec in plan.inputs]
    seconds = [name + PAIR for name in names] if plan.paired else []
    wanted = names + seconds + ([TARGETS] if plan.has_targets else [])
    for arrays in _chosen(file.batches(wanted, plan.batch_size), plan.part):
        cast = {
            spec.name: arrays[spec.name].to(None if spec.dtype else plan.compute_dtype)
            for spec in plan.inputs
        }
        pairs = (
            {
                spec.name: arrays[spec.name + PAIR].to(None if spec.dtype else plan.compute_dtype)
                for spec in plan.inputs
            }
            if plan.paired
            else None
        )
        yield Batch(inputs=cast, pairs=pairs, targets=arrays.get(TARGETS))


def _plan(
    file: ArrayFile,
    inputs: tuple[InputSpec, ...],
    compute_dtype: torch.dtype,
    rule: TargetRule,
    batch_size: int,
) -> DataPlan:
    arrays: Mapping[str, ArrayInfo] = file.arrays
    names = [spec.name for spec in inputs]
    if missing := [name for name in names if name not in arrays]:
        raise EvaluationMismatch(
            f"The validation file has no array {_listed(missing)}, which the model takes; it has "
            f"{_listed(arrays)}."
        )
    pair_names = [name + PAIR for name in names]
    paired = rule.allows_pairs and any(name in arrays for name in pair_names)
    allowed = {*names, TARGETS, *(pair_names if paired else ())}
    if unknown := [name for name in arrays if name not in allowed]:
        raise EvaluationMismatch(
            f"The validation file has arrays that nothing reads: {_listed(unknown)}. Expected: "
            f"{_listed(sorted({*names, TARGETS}))}."
        )
    if paired and (missing := [name for name in pair_names if name not in arrays]):
        raise EvaluationMismatch(f"The validation file has pairs, but no array {_listed(missing)}.")
    samples = _same_length(arrays)
    for spec in inputs:
        _check_input(spec, arrays[spec.name])
        if paired:
            second = arrays[spec.name + PAIR]
            _check_input(spec, second)
    rule.check_header(arrays.get(TARGETS), paired=paired)
    for info in arrays.values():
        if (size := prod(info.shape[1:]) * 8 * min(batch_size, samples)) > MAX_BATCH_BYTES:
            raise EvaluationMismatch(
                f"A batch of {batch_size} rows of {info.name!r} {list(info.shape)} takes {size} "
                f"bytes, more than {MAX_BATCH_BYTES}; send a smaller evaluation.batch_size."
            )
    notes = tuple(
        f"The array {spec.name!r} is {arrays[spec.name].dtype}; it was cast to "
        f"{str(compute_dtype).removeprefix('torch.')} without scaling."
        for spec in inputs
        if spec.dtype is None
        and arrays[spec.name].dtype != str(compute_dtype).removeprefix("torch.")
    )
    return DataPlan(
        samples=samples,
        batch_size=batch_size,
        inputs=inputs,
        compute_dtype=compute_dtype,
        has_targets=TARGETS in arrays and rule.uses_targets,
        paired=paired,
        notes=notes,
    )


def _same_length(arrays: Mapping[str, ArrayInfo]) -> int:
    if flat := [name for name, info in arrays.items() if not info.shape]:
        raise EvaluationMismatch(f"{_listed(flat)} is a single number; one row a sample is wanted.")
    lengths = {name: info.shape[0] for name, info in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise EvaluationMismatch(f"The arrays' numbers of samples differ: {told}.")
    samples = next(iter(lengths.values()))
    if samples == 0:
        raise EvaluationMismatch("The validation file holds no samples: its arrays have length 0.")
    return samples


def _check_input(spec: InputSpec, info: ArrayInfo) -> None:
    if spec.dtype is not None and info.dtype != spec.dtype:
        raise EvaluationMismatch(
            f"The array {info.name!r} is {info.dtype}, but the model takes {spec.dtype}; save it "
            f"as {spec.dtype}."
        )
    if spec.dtype is None and info.dtype not in NUMBER_DTYPES:
        raise EvaluationMismatch(
            f"The array {info.name!r} is {info.dtype}; an integer or floating dtype is wanted, "
            "such as float32."
        )
    rest = info.shape[1:]
    if 0 in rest:
        raise EvaluationMismatch(f"The array {info.name!r} {list(info.shape)} holds no values.")
    if spec.shape is not None and (
        len(rest) != len(spec.shape)
        or any(want is not None and want != got for want, got in zip(spec.shape, rest, strict=True))
    ):
        wanted = ", ".join(["samples", *("any" if d is None else str(d) for d in spec.shape)])
        raise EvaluationMismatch(
            f"The array {info.name!r} has shape {list(info.shape)}, but the model takes [{wanted}]."
        )


def _check_finite(name: str, tensor: torch.Tensor, start: int) -> None:
    if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
        return
    bad = tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1)
    row = int((~bad.isfinite()).any(dim=1).nonzero()[0, 0])
    kind = "nan" if bool(bad[row].isnan().any()) else "an infinite value"
    raise EvaluationMismatch(
        f"The array {name!r} holds {kind} in sample {start + row} (read as "
        f"{str(tensor.dtype).removeprefix('torch.')})."
    )


def _listed(names: Mapping[str, object] | list[str]) -> str:
    shown = [repr(name[:80]) for name in list(names)[:6]]
    return ", ".join(shown) + (", ..." if len(names) > 6 else "") if shown else "none"
