"""What `targets` must be, by task: checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rankpress.errors import EvaluationMismatch
from rankpress.names import Task
from worker.evaluation.architecture import OutputSpec
from worker.evaluation.arrayfile import NUMBER_DTYPES, ArrayInfo

TARGETS = "targets"
IGNORE_INDEX = -100  # torch's own mark of a token that is not scored
_FLOATS = frozenset(("float16", "bfloat16", "float32", "float64"))
_INTEGERS = NUMBER_DTYPES - _FLOATS


@dataclass(frozen=True, kw_only=True)
class TargetRule:
    """The task and the output it is scored on."""

    task: Task
    output: OutputSpec

    @property
    def uses_targets(self) -> bool:
        return self.task is not Task.FIDELITY

    @property
    def allows_pairs(self) -> bool:
        return self.task is Task.EMBEDDING

    @property
    def classes(self) -> int | None:
        """The size of the output's last axis."""
        return self.output.shape[-1] if self.output.shape else None

    def check_output(self) -> None:
        """Whether the model's output can serve the task at all. Raises EvaluationMismatch."""
        rank = len(self.output.shape)
        wanted = {Task.CLASSIFICATION: 1, Task.MULTILABEL: 1, Task.EMBEDDING: 1}.get(self.task)
        if self.task is Task.LANGUAGE_MODELLING:
            wanted = 2
        if wanted is not None and rank != wanted:
            shape = {1: "[samples, values]", 2: "[samples, tokens, vocabulary]"}[wanted]
            raise EvaluationMismatch(
                f"The task {self.task} needs an output of shape {shape}, but the model's "
                f"{self.output.name!r} has {_shape(self.output.shape)}."
            )
        if self.task is Task.CLASSIFICATION and self.classes == 1:
            raise EvaluationMismatch(
                "The model has one output, so it does not tell classes apart by the largest; use "
                "the task multilabel (one label, yes or no) or regression."
            )

    def check_header(self, info: ArrayInfo | None, *, paired: bool) -> None:
        """Dtype and shape. Raises EvaluationMismatch."""
        if not self.uses_targets:
            return
        if info is None:
            self._check_absent(paired=paired)
            return
        allowed = {
            Task.CLASSIFICATION: _INTEGERS,
            Task.LANGUAGE_MODELLING: _INTEGERS,
            Task.MULTILABEL: _INTEGERS | _FLOATS | {"bool"},
            Task.REGRESSION: _FLOATS | _INTEGERS,
            Task.EMBEDDING: _FLOATS | _INTEGERS,
        }[self.task]
        if info.dtype not in allowed:
            hint = ": class numbers are integers, such as int64" if "float32" not in allowed else ""
            raise EvaluationMismatch(
                f"The array 'targets' is {info.dtype}, but the task {self.task} takes "
                f"{'integers' if 'float32' not in allowed else 'numbers'}{hint}."
            )
        self._check_shape(info, paired=paired)

    def check_values(
        self, targets: torch.Tensor, inputs: Mapping[str, torch.Tensor], start: int
    ) -> None:
        """The values of one batch, whose first sample is number `start`."""
        if targets.is_floating_point() and not bool(targets.isfinite().all()):
            bad = ~targets.isfinite()
            _refuse(targets, bad, start, "a finite number")
        if self.task is Task.MULTILABEL:
            _refuse(targets, (targets != 0) & (targets != 1), start, "0 or 1")
        if self.task in (Task.CLASSIFICATION, Task.LANGUAGE_MODELLING) and self.classes:
            whole = targets.to(torch.int64)
            bad = (whole < 0) | (whole >= self.classes)
            extra = ""
            if self.task is Task.LANGUAGE_MODELLING:
                bad &= whole != IGNORE_INDEX
                extra = f", or {IGNORE_INDEX} for a token that is not scored"
            _refuse(targets, bad, start, f"a class from 0 to {self.classes - 1}{extra}")

    def _check_absent(self, *, paired: bool) -> None:
        if self.task is Task.LANGUAGE_MODELLING:
            return  # the next token of input_ids is the target
        if self.task is Task.EMBEDDING:
            if paired:
                raise EvaluationMismatch(
                    "The validation file has pairs, but no array 'targets' with their scores."
                )
            return
        raise EvaluationMismatch(
            f"The validation file has no array 'targets', which the task {self.task} needs; for "
            "data without labels choose the task fidelity."
        )

    def _check_shape(self, info: ArrayInfo, *, paired: bool) -> None:
        rest = info.shape[1:]
        out = self.output.shape
        fits = {
            Task.CLASSIFICATION: rest == (),
            Task.EMBEDDING: rest == (),
            Task.MULTILABEL: _same(rest, out),
            Task.REGRESSION: _same(rest, out) or (rest == () and out == (1,)),
            Task.LANGUAGE_MODELLING: _same(rest, out[:1]),
        }[self.task]
        if self.task is Task.EMBEDDING and not paired:
            raise EvaluationMismatch(
                "The array 'targets' is a score of each pair of samples, but the second samples "
                "('<input>_pair') are missing; without pairs leave 'targets' out."
            )
        if fits:
            return
        wanted = {
            Task.CLASSIFICATION: "[samples]",
            Task.EMBEDDING: "[samples]",
            Task.LANGUAGE_MODELLING: "[samples, tokens]",
        }.get(self.task, _shape(out))
        raise EvaluationMismatch(
            f"The array 'targets' has shape {list(info.shape)}, but the task {self.task} takes "
            f"{wanted}"
            + (
                "; send class numbers, not one-hot rows."
                if self.task is Task.CLASSIFICATION
                else "."
            )
        )


def _same(got: tuple[int, ...], want: tuple[int | None, ...]) -> bool:
    return len(got) == len(want) and all(
        w is None or g == w for g, w in zip(got, want, strict=True)
    )


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join(["samples", *("any" if d is None else str(d) for d in shape)]) + "]"


def _refuse(targets: torch.Tensor, bad: torch.Tensor, start: int, wanted: str) -> None:
    if not bool(bad.any()):
        return
    where = bad.nonzero()[0]
    value = targets[tuple(where)].item()
    raise EvaluationMismatch(
        f"The array 'targets' holds {value} in sample {start + int(where[0])}; {wanted} is "
        "expected."
    )
