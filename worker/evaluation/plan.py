"""Decides, before any factorisation, how a job is evaluated, or says what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rankpress.errors import EvaluationMismatch
from rankpress.names import ArchitectureKind, FileFormat, Task
from rankpress.schemas.architecture import Architecture as ArchitectureRequest
from rankpress.schemas.request import Evaluation
from worker.evaluation.architecture import Architecture
from worker.evaluation.data import DataPlan, check_data, width_of
from worker.evaluation.metrics.names import bounded_metrics
from worker.evaluation.mlp import find_chain
from worker.evaluation.mlp_network import MlpArchitecture
from worker.evaluation.targets import TargetRule
from worker.tensors import Checkpoint, StoredTensor


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What will be run on what."""

    architecture: Architecture
    data: DataPlan
    task: Task
    classes: int | None  # size of the scored output's last axis, where it is known

    @property
    def words(self) -> str:
        """ "mlp 784-512-256-10, relu"."""
        return self.architecture.words

    @property
    def assumed(self) -> bool:
        """The architecture was inferred from shapes, not told by the caller."""
        return self.architecture.assumed

    @property
    def output_layer(self) -> str | None:
        """Key of the weight that makes the output, which is protected by default."""
        return self.architecture.output_layer

    @property
    def samples(self) -> int:
        return self.data.samples


def check_evaluation(
    request: Evaluation,
    tensors: Sequence[StoredTensor],
    validation: Path,
    template: Path | None = None,
    *,
    model: Checkpoint | None = None,
) -> EvaluationPlan:
    """Reads the validation file once through, in batches; computes nothing with the model.

    `template` is the ONNX template's file, for an architecture of that kind; `model` the
    checkpoint itself, for a whole ONNX model, which is its own architecture.

    Raises EvaluationMismatch, and InvalidFile for a validation file or template that is damaged,
    of another format, or would run code.
    """
    architecture = _architecture(request.architecture, tensors, validation, template, model)
    rule = TargetRule(task=request.task, output=architecture.output)
    rule.check_output()
    data = check_data(
        validation,
        inputs=architecture.inputs,
        compute_dtype=architecture.compute_dtype,
        rule=rule,
        batch_size=architecture.batch_size or request.batch_size,
    )
    _check_max_drop(request, bounded_metrics(request.task, rule.classes, data))
    return EvaluationPlan(
        architecture=architecture, data=data, task=request.task, classes=rule.classes
    )


def _architecture(
    request: ArchitectureRequest,
    tensors: Sequence[StoredTensor],
    validation: Path,
    template: Path | None,
    model: Checkpoint | None,
) -> Architecture:
    is_graph = model is not None and model.format is FileFormat.ONNX
    if is_graph != (request.kind is ArchitectureKind.ONNX):
        what = "an ONNX graph" if is_graph else "no ONNX graph"
        raise EvaluationMismatch(
            f"evaluation.architecture is of kind {request.kind.value!r}, and the model is {what}; "
            "the kind 'onnx' goes with a whole ONNX model, and with nothing else."
        )
    if request.kind is ArchitectureKind.MLP:
        shape = width_of(validation, "inputs")
        return MlpArchitecture(chain=find_chain(tensors, request.activation, shape))
    if request.kind is ArchitectureKind.TEMPLATE:
        if template is None:
            raise EvaluationMismatch(
                "evaluation.architecture is of kind 'template', but names no template; upload one "
                "and send its id as evaluation.architecture.template."
            )
        # Imported here, so that evaluating a chain needs no ONNX.
        from worker.evaluation.template import load_architecture

        return load_architecture(template, tensors)
    if request.kind is ArchitectureKind.FACTORY:
        from worker.evaluation.factory import load_architecture as load_factory

        return load_factory(request.name, request.arguments, tensors, validation)
    assert model is not None
    from worker.evaluation.whole import load_architecture as load_whole

    return load_whole(model)


def _check_max_drop(request: Evaluation, known: tuple[str, ...]) -> None:
    for name in request.max_drop or {}:
        if name not in known:
            raise EvaluationMismatch(
                f"evaluation.max_drop bounds {name!r}, which the task {request.task} on this data "
                f"does not measure with an interval; it measures {', '.join(known)}."
            )
