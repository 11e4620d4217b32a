"""A job's files opened and its plan made: what every stage begins with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from rankpress.errors import InvalidRequest
from rankpress.loading.curvature import TEMPERATURE
from rankpress.names import Aware, FileFormat, Sensitivity
from rankpress.schemas.request import NOT_AWARE
from worker.aware.statistics import Statistics, check_names
from worker.aware.watchable import in_reach, weights_known
from worker.checkpoint import open_checkpoint
from worker.child.messages import JobInputs
from worker.device import threads_for, use_threads
from worker.evaluation import EvaluationPlan, check_evaluation
from worker.evaluation.data import read_batches
from worker.read.calibrates import calibrates
from worker.read.output_layer import OutputLayer
from worker.read.plan import Plan, make_plan
from worker.read.roles import Roles, assign
from worker.tensors import Checkpoint, StoredTensor


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What reading finds out: the tensors, what is tried with them, and how it is evaluated."""

    inputs: JobInputs
    model: Checkpoint
    plan: Plan
    evaluation: EvaluationPlan | None
    roles: Roles | None

    def statistics(self) -> Statistics | None:
        """The second moments, opened anew; None where the factors are of the weights alone."""
        path, aware = self.inputs.statistics, self.inputs.request.aware
        return None if path is None or aware is Aware.NONE else Statistics(path, aware)

    @property
    def sensitivity(self) -> Sensitivity | None:
        """What an error of a layer is measured by; None unless factors are two-sided."""
        request = self.inputs.request
        if request.aware is not Aware.TWO_SIDED:
            return None
        if request.statistics is None:
            return request.sensitivity or Sensitivity.OUTPUT
        statistics = self.statistics()
        assert statistics is not None
        return statistics.info.sensitivity

    def check_statistics(self) -> None:
        """The caller's own, against the tensors. Raises InvalidRequest."""
        if self.inputs.request.statistics is None:
            return
        statistics = self.statistics()
        assert statistics is not None
        check_names(statistics, [p.name for p in self.plan.tensors if p.views])
        for planned in self.plan.tensors:
            if planned.is_candidate:
                statistics.check(planned.name, planned.views[0])

    def calibration_batches(self) -> Iterator[Mapping[str, torch.Tensor]]:
        """The inputs of the samples that calibrate, batch by batch, anew at each call."""
        assert self.roles is not None
        assert self.roles.calibration is not None
        assert self.roles.calibration_file is not None
        for batch in read_batches(self.roles.calibration_file, self.roles.calibration):
            yield batch.inputs

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the report."""
        match self.inputs.request.aware:
            case Aware.INPUTS:
                matrix = "W L, with L L^T the covariance of the layer's inputs"
            case Aware.TWO_SIDED:
                moment = {
                    Sensitivity.OUTPUT: "J^T J",
                    Sensitivity.SOFTMAX: "J^T (diag(p) - p p^T) J, p the softmax of the output at "
                    f"temperature {TEMPERATURE:g}",
                }[self.sensitivity or Sensitivity.OUTPUT]
                matrix = (
                    "g^T W L, with L L^T the covariance of the layer's inputs and g g^T the mean "
                    f"of {moment}, and J the Jacobian of the model's output by the layer's"
                )
            case _:
                return ()
        notes = [
            f"The factors are of {matrix}; so are the spectra, energy_kept, entropy_kept and "
            "spectral_error. relative_error is of the weights themselves."
        ]
        if self._by_differences:
            notes.append(
                "A template has no backward pass: of each layer's g one number was measured, by "
                "forward differences. rankpress.collect_statistics knows it whole."
            )
        return tuple(notes)

    @property
    def _by_differences(self) -> bool:
        return (
            self.inputs.request.aware is Aware.TWO_SIDED
            and calibrates(self.inputs.request)
            and self.evaluation is not None
            and not in_reach(self.evaluation.architecture)
        )


def open_job(inputs: JobInputs) -> Opened:
    """Raises what does not fit: of the file, the request, or the samples."""
    use_threads(inputs.limits)
    request = inputs.request
    model = open_checkpoint(
        inputs.models,
        weights_path=request.weights_path,
        names=inputs.model_names,
        limits=inputs.limits.of_files,
    )
    evaluation = output = roles = None
    if request.evaluation is not None and inputs.validation is not None:
        evaluation = check_evaluation(
            request.evaluation, model.tensors, inputs.validation, inputs.template, model=model
        )
        roles = assign(inputs, evaluation)
        if evaluation.output_layer is not None:
            output = OutputLayer(name=evaluation.output_layer, assumed=evaluation.assumed)
    graph_names: frozenset[str] = frozenset()
    if model.format is FileFormat.ONNX:
        output, graph_names = _of_graph(model)
        if request.aware is not Aware.NONE:
            raise InvalidRequest.at("/aware", NOT_AWARE)
    known, corrected = _known(inputs, evaluation, model.tensors)
    plan = make_plan(
        model.tensors,
        request,
        output,
        known=known,
        corrected=corrected,
        graph_names=graph_names,
        threads=threads_for(inputs.limits),
        step_seconds=inputs.limits.step_seconds,
    )
    return Opened(inputs=inputs, model=model, plan=plan, evaluation=evaluation, roles=roles)


def _of_graph(model: Checkpoint) -> tuple[OutputLayer | None, frozenset[str]]:
    """What a whole ONNX model says itself: its output layer, and the names that are taken."""
    from worker.checkpoint.onnx_in import OnnxCheckpoint

    assert isinstance(model, OnnxCheckpoint)
    found = model.output_weight
    output = None if found is None else OutputLayer(name=found, assumed=False)
    return output, model.names


def _known(
    inputs: JobInputs, evaluation: EvaluationPlan | None, tensors: Sequence[StoredTensor]
) -> tuple[frozenset[str] | None, frozenset[str]]:
    """Weights whose second moments there are or will be, and those whose bias is corrected."""
    request = inputs.request
    if request.aware is Aware.NONE:
        return None, frozenset()
    if request.statistics is not None:
        assert inputs.statistics is not None
        statistics = Statistics(inputs.statistics, request.aware)
        return statistics.known, statistics.corrected
    if evaluation is None:
        raise InvalidRequest.at("/aware", "needs samples; send `evaluation`, or `statistics`")
    output = evaluation.architecture.output
    if request.sensitivity is Sensitivity.SOFTMAX and output.shape[-1:] in ((), (1,)):
        raise InvalidRequest.at(
            "/sensitivity",
            f"softmax needs logits of two classes at least, but the model's {output.name!r} has "
            f"the shape {['samples', *output.shape]}; leave it out",
        )
    return weights_known(evaluation.architecture, tensors)
