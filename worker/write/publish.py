"""The output file: never larger than the input, and the input's own bytes where nothing is won."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rankpress.names import Action, FileFormat, OutputFormat, OutputLayout, Reason
from rankpress.schemas.report import LayerReport
from worker.aware.correction import Correction
from worker.checkpoint import check_output, multiplied_back, write_checkpoint
from worker.child.messages import JobInputs
from worker.factorise.layer_report import unchanged
from worker.read.plan import Plan
from worker.tensors import Checkpoint, OutputTensor, dtype_of
from worker.write.output import Output, plan_output
from worker.write.parts import Parts


def publish(
    model: Checkpoint,
    plan: Plan,
    inputs: JobInputs,
    layers: Sequence[LayerReport],
    parts: Parts,
    out: Path,
    advanced: Callable[[int, int], None],
    corrections: Mapping[str, Correction] | None = None,
) -> tuple[FileFormat, tuple[LayerReport, ...]]:
    """Writes `out`; returns its format and the reports of all candidates as they then are, and of
    the biases that were corrected.

    When no layer is factorised, and when the file with factors is not smaller than the input in
    the same format, the output is the input: byte for byte, if it is one file and its format is
    kept. The manifest counts into the size, which matters for tiny models alone.
    """
    options = inputs.request.output
    written = check_output(model, options.format)
    original = model.original if options.format is OutputFormat.SAME else None
    if options.drop_optimizer:
        original = None
    any_factors = any(r.action is Action.FACTORISED for r in layers)
    if any_factors or original is None:
        corrections = corrections or {}
        output = plan_output(model, plan, layers, parts, options.layout, corrections)
        _write(model, output, inputs, out, advanced)
        grew = original is not None and out.stat().st_size >= original.stat().st_size
        if not (any_factors and grew and options.layout is OutputLayout.FACTORS):
            whole = multiplied_back(model, output.manifest)
            told = tuple(
                _in_graph(_with_bias(r, corrections.get(r.name), options.layout), whole)
                for r in layers
            )
            return written, (*told, *_corrected_biases(plan, corrections))
        planned = {p.name: p for p in plan.tensors}
        layers = [
            unchanged(planned[r.name], r.threshold, Reason.WHOLE_MODEL_NOT_SMALLER)
            if r.action is Action.FACTORISED
            else r
            for r in layers
        ]
    assert original is not None
    shutil.copyfile(original, out)
    return model.format, tuple(layers)


def _write(
    model: Checkpoint,
    output: Output,
    inputs: JobInputs,
    out: Path,
    advanced: Callable[[int, int], None],
) -> None:
    done = 0

    def counted(tensor: OutputTensor) -> OutputTensor:
        def load() -> torch.Tensor:
            nonlocal done
            done += 1
            advanced(done, len(output.tensors))
            return tensor.load()

        return replace(tensor, load=load)

    write_checkpoint(
        model,
        [counted(t) for t in output.tensors],
        out,
        format=inputs.request.output.format,
        manifest=output.manifest,
        drop_optimizer=inputs.request.output.drop_optimizer,
    )


def _with_bias(
    report: LayerReport, correction: Correction | None, layout: OutputLayout
) -> LayerReport:
    """As it is laid out; a bias that the layer did not have counts to it."""
    if correction is None or correction.stored is not None or layout is OutputLayout.DENSE:
        return _as_laid_out(report, layout)
    size = correction.length * dtype_of(correction.dtype).itemsize
    return report.model_copy(
        update={
            "parameters_after": report.parameters_after + correction.length,
            "bytes_after": report.bytes_after + size,
            "note": f"with a new bias of {correction.length} numbers, the mean of its error",
        }
    )


def _in_graph(report: LayerReport, whole: Collection[str]) -> LayerReport:
    if report.name not in whole:
        return report
    note = "multiplied back inside the graph, where no two nodes stand for it: smaller, no faster"
    return report.model_copy(update={"note": note})


def _corrected_biases(plan: Plan, corrections: Mapping[str, Correction]) -> list[LayerReport]:
    planned = {p.name: p for p in plan.tensors}
    found = []
    for name, correction in corrections.items():
        if correction.stored is not None:
            bias = planned[correction.stored.name]
            assert bias.reason is not None
            report = unchanged(bias, None, bias.reason)
            note = f"changed by the mean of the error of {name}"
            found.append(report.model_copy(update={"note": note}))
    return found


def _as_laid_out(report: LayerReport, layout: OutputLayout) -> LayerReport:
    """With the layout `dense` a factorised layer takes what it took before."""
    if layout is OutputLayout.FACTORS or report.action is not Action.FACTORISED:
        return report
    return report.model_copy(
        update={
            "parameters_after": report.parameters_before,
            "bytes_after": report.bytes_before,
            "factor_keys": (report.name,),
            "note": "multiplied back by request: the file is no smaller",
        }
    )
