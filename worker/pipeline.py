"""A job's compute, a stage a method: read, calibrate, factorise, allocate, refit, write, evaluate.
Runs in the child.

Each stage is called with all it needs and may be the first that this process sees, since a job
goes on in a fresh process after a crash; what is opened once is kept for the next stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rankpress.names import Action
from rankpress.schemas.manifest import Manifest
from rankpress.service.store import sha256_of
from worker.aware.calibration import calibrate
from worker.aware.correction import corrections
from worker.checkpoint import check_output, open_artifact, read_manifest
from worker.child.messages import (
    Allocate,
    AllocateResult,
    Calibrate,
    CalibrateResult,
    Evaluate,
    EvaluateResult,
    Factorise,
    FactoriseResult,
    JobInputs,
    Read,
    ReadResult,
    Refit,
    RefitResult,
    Write,
    WriteResult,
)
from worker.device import device_for, versions
from worker.evaluation import evaluate, verify_dense
from worker.factorise.layer_report import unchanged
from worker.factorise.layers import factorise_names
from worker.ranks.ranking import Ranking, sliced
from worker.read.opened import Opened, open_job
from worker.refit.overlay import RefittedParts
from worker.refit.sequence import Refitting, told
from worker.write.parts import Parts, open_parts, write_part
from worker.write.publish import publish
from worker.write.spectra import write_spectra

Advanced = Callable[[int, int], None]


class Pipeline:
    """The stages, and the job's files as far as they are open."""

    def __init__(self) -> None:
        self._kept: tuple[JobInputs, Opened] | None = None

    def read(self, command: Read) -> ReadResult:
        """Opens everything, refuses what cannot work, plans. Nothing is factorised yet."""
        started = time.perf_counter()
        opened = self._open(command.inputs)
        plan, request = opened.plan, command.inputs.request
        check_output(opened.model, request.output.format)
        opened.check_statistics()
        device = device_for(command.inputs.limits)
        if opened.evaluation is not None and command.inputs.validation is not None:
            verify_dense(opened.evaluation, opened.model, command.inputs.validation, device)
        untouched = [(p, p.reason) for p in plan.tensors if p.reason is not None]
        return ReadResult(
            groups=plan.groups,
            untouched=tuple(unchanged(p, p.thresholds[0], reason) for p, reason in untouched),
            order=tuple(p.name for p in plan.tensors),
            own_threshold=frozenset(
                p.name for p, _ in untouched if request.results > 1 and len(set(p.thresholds)) == 1
            ),
            protected_output=plan.output_layer.name if plan.output_layer else None,
            protected_output_assumed=bool(plan.output_layer and plan.output_layer.assumed),
            weights_path=opened.model.weights_path,
            sensitivity=opened.sensitivity,
            notes=(*opened.model.notes, *opened.notes),
            versions=versions(device),
            seconds=time.perf_counter() - started,
        )

    def calibrate(self, command: Calibrate) -> CalibrateResult:
        """Second moments of every layer that is to be factorised, from the samples."""
        started = time.perf_counter()
        opened = self._open(command.inputs)
        assert opened.evaluation is not None
        assert command.inputs.statistics is not None
        assert opened.roles is not None
        assert opened.roles.calibration is not None
        samples = calibrate(
            opened.evaluation.architecture,
            opened.model,
            opened.calibration_batches(),
            command.inputs.statistics,
            count=opened.roles.calibration.samples,
            names=frozenset(p.name for p in opened.plan.tensors if p.is_candidate),
            sensitivity=opened.sensitivity,
            device=device_for(command.inputs.limits),
        )
        return CalibrateResult(samples=samples, seconds=time.perf_counter() - started)

    def factorise(self, command: Factorise, advanced: Advanced) -> FactoriseResult:
        """One group of layers: factors and singular values into a part, reports back."""
        started = time.perf_counter()
        opened = self._open(command.inputs)
        found = factorise_names(
            opened, command.inputs, command.names, device_for(command.inputs.limits), advanced
        )
        write_part(command.part, found.tensors)
        return FactoriseResult(
            layers=found.layers,
            others=found.others,
            wide=found.wide,
            seconds=time.perf_counter() - started,
        )

    def allocate(self, command: Allocate, advanced: Advanced) -> AllocateResult:
        """The ranks of all layers together, where the rule asks for that."""
        opened = self._open(command.inputs)
        with open_parts(command.parts) as parts:
            return Ranking(
                model=opened.model,
                plan=opened.plan,
                command=command,
                parts=parts,
                statistics=opened.statistics(),
                evaluation=opened.evaluation,
                roles=opened.roles,
                device=device_for(command.inputs.limits),
            ).run(advanced)

    def refit(self, command: Refit, advanced: Advanced) -> RefitResult:
        """New right factors for one result, into a part of its own."""
        started = time.perf_counter()
        opened = self._open(command.inputs)
        statistics = opened.statistics()
        assert opened.evaluation is not None
        assert statistics is not None
        with self._parts(command) as parts:
            layers, tensors = Refitting(
                model=opened.model,
                plan=opened.plan,
                layers=command.layers,
                parts=parts,
                statistics=statistics,
                architecture=opened.evaluation.architecture,
                batches=opened.calibration_batches,
                layout=command.inputs.request.output.layout,
                device=device_for(command.inputs.limits),
            ).run(advanced)
        write_part(command.out, tensors)
        return RefitResult(layers=layers, notes=told(layers), seconds=time.perf_counter() - started)

    def write(self, command: Write, advanced: Advanced) -> WriteResult:
        """The output file from the parts, and the spectra beside it."""
        started = time.perf_counter()
        opened = self._open(command.inputs)
        allocated = command.inputs.request.is_allocated
        with self._parts(command) as parts:
            planned = {p.name: p for p in opened.plan.tensors}
            factorised = {r.name: r for r in command.layers if r.action is Action.FACTORISED}
            statistics = opened.statistics()
            corrected = (
                corrections(opened.model, planned, factorised, statistics) if statistics else {}
            )
            written, layers = publish(
                opened.model,
                opened.plan,
                command.inputs,
                command.layers,
                parts,
                command.out,
                advanced,
                corrected,
            )
            if command.spectrum is not None:
                write_spectra(
                    command.spectrum, opened.plan, command.layers, parts, allocated=allocated
                )
        return WriteResult(
            sha256=sha256_of(command.out),
            size_bytes=command.out.stat().st_size,
            format=written,
            layers=layers,
            seconds=time.perf_counter() - started,
        )

    def evaluate(self, command: Evaluate, advanced: Advanced) -> EvaluateResult:
        """Scores the artifact as it was read back."""
        started = time.perf_counter()
        opened = self._open(command.inputs)
        request = command.inputs.request
        assert opened.evaluation is not None
        assert opened.roles is not None
        assert request.evaluation is not None
        assert command.inputs.validation is not None
        artifact = open_artifact(command.artifact, opened.model)
        try:
            report = evaluate(
                replace(opened.evaluation, data=opened.roles.scored),
                request.evaluation,
                opened.model,
                artifact,
                read_manifest(command.artifact) or Manifest(layers=()),
                command.inputs.validation,
                command.artifact_sha256,
                device_for(command.inputs.limits),
                advanced,
            )
        finally:
            artifact.close()
        return EvaluateResult(
            report=report.model_copy(update={"notes": (*report.notes, *opened.roles.notes)}),
            flops_per_sample_before=report.flops_per_sample_dense,
            flops_per_sample_after=report.flops_per_sample_compressed,
            seconds=time.perf_counter() - started,
        )

    @contextmanager
    def _parts(self, command: Refit | Write) -> Iterator[Parts]:
        """The parts as they are at the command's result."""
        allocated = command.inputs.request.is_allocated
        with open_parts(command.parts, 0 if allocated else command.result) as stored:
            parts = sliced(stored, command.layers) if allocated else stored
            if isinstance(command, Refit) or command.refit is None:
                yield parts
                return
            with open_parts((command.refit,)) as refit:
                yield RefittedParts(parts, refit)

    def _open(self, inputs: JobInputs) -> Opened:
        if self._kept is not None and self._kept[0] == inputs:
            return self._kept[1]
        if self._kept is not None:
            self._kept[1].model.close()
        opened = open_job(inputs)
        self._kept = (inputs, opened)
        return opened
