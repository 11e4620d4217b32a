"""Runs both models over the validation data and tells how much the compressed one loses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from rankpress.schemas.manifest import Manifest
from rankpress.schemas.report import EvaluationReport, Latency, LayerLatency, Metric
from rankpress.schemas.request import Evaluation
from worker.evaluation import layer_latency
from worker.evaluation.architecture import Network
from worker.evaluation.data import Batch, read_batches
from worker.evaluation.latency import measure_latency
from worker.evaluation.metrics import scores_for
from worker.evaluation.metrics.base import Outputs, Scores
from worker.evaluation.plan import EvaluationPlan
from worker.evaluation.tokens import next_tokens, token_mask
from worker.evaluation.verdict import judge
from worker.evaluation.weights import Weights
from worker.tensors import Checkpoint


def evaluate(
    plan: EvaluationPlan,
    request: Evaluation,
    dense: Checkpoint,
    compressed: Checkpoint,
    manifest: Manifest,
    validation: Path,
    artifact_sha256: str,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> EvaluationReport:
    """Scores the artifact as it was read back, beside the dense input, batch by batch.

    `progress` gets (batches done, batches in all). Raises CorruptFile when the validation file
    changed under it.
    """
    begin = time.perf_counter()
    device = plan.architecture.runs_on(device)
    small = Weights(compressed, manifest)
    networks = (
        plan.architecture.build(Weights(dense), device),
        plan.architecture.build(small, device),
    )
    sides = tuple(zip((Weights(dense), small), networks, strict=True))
    checked = plan.architecture.check_dense(networks[0])
    latency: tuple[Latency, ...] = ()
    told: tuple[str, ...] = ()
    layers: tuple[LayerLatency, ...] = ()
    with torch.inference_mode():
        metrics = score_pair(plan, networks, validation, device, progress)
        flops = [
            plan.architecture.flops(weights, network, _rows(plan, validation, device, 1))
            for weights, network in sides
        ]
        if request.latency:
            latency, told = measure_latency(plan, request, networks, small, validation, device)
            if (size := layer_latency.slow_batch(latency)) is not None and small.factorised:
                layers = layer_latency.measure_layers(
                    plan.architecture,
                    Weights(dense),
                    small,
                    _rows(plan, validation, device, size),
                    device,
                )
                told = (*told, layer_latency.told(layers, size))
    return EvaluationReport(
        task=plan.task,
        architecture=plan.words,
        architecture_assumed=plan.assumed,
        samples=plan.samples,
        metrics=tuple(metrics),
        latency=latency,
        layer_latency=layers,
        device=device_name(device),
        artifact_sha256=artifact_sha256,
        flops_per_sample_dense=flops[0],
        flops_per_sample_compressed=flops[1],
        verdict=judge(metrics, request.max_drop),
        seconds=time.perf_counter() - begin,
        notes=(*plan.architecture.notes, *plan.data.notes, *checked, *told),
    )


def device_name(device: torch.device) -> str:
    """ "cpu", or "cuda (NVIDIA ...)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type


def score_pair(
    plan: EvaluationPlan,
    networks: tuple[Network, Network],
    validation: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> list[Metric]:
    """The metrics of (dense, compressed) over the plan's samples."""
    scores: list[Scores] = []
    broken = [0, 0]  # samples with an answer that is not finite: dense, compressed
    total = plan.data.batches
    progress(0, total)
    for done, batch in enumerate(read_batches(validation, plan.data), start=1):
        outputs = _answer(plan, networks, batch, device)
        if not scores:
            scores = scores_for(plan.task, plan.samples, tuple(outputs.dense.shape[1:]))
        fine = _made_finite(outputs, broken)
        for each in scores:
            each.update(fine)
        progress(done, total)
    metrics = [metric for each in scores for metric in each.compute()]
    return [_void(metric, broken) for metric in metrics]


def _rows(
    plan: EvaluationPlan, validation: Path, device: torch.device, count: int
) -> dict[str, torch.Tensor]:
    """The first samples, of the first batch."""
    first = next(iter(read_batches(validation, plan.data)))
    return {name: tensor[:count].to(device) for name, tensor in first.inputs.items()}


def _answer(
    plan: EvaluationPlan, networks: tuple[Network, Network], batch: Batch, device: torch.device
) -> Outputs:
    inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
    dense, compressed = (network(inputs) for network in networks)
    outputs = Outputs(
        dense=dense,
        compressed=compressed,
        targets=next_tokens(plan.task, batch),
        token_mask=token_mask(plan.task, batch, device),
    )
    if batch.pairs is None:
        return outputs
    seconds = {name: tensor.to(device) for name, tensor in batch.pairs.items()}
    return replace(outputs, dense_pair=networks[0](seconds), compressed_pair=networks[1](seconds))


def _made_finite(outputs: Outputs, broken: list[int]) -> Outputs:
    """Counts the samples that are not finite; their metrics become null at the end."""
    fine = []
    for side, output in enumerate((outputs.dense, outputs.compressed)):
        bad = ~output.flatten(1).isfinite().all(dim=1) if output.dim() > 1 else ~output.isfinite()
        count = int(bad.sum())
        broken[side] += count
        fine.append(output.nan_to_num(0.0, 0.0, 0.0) if count else output)
    return replace(outputs, dense=fine[0], compressed=fine[1])


def _void(metric: Metric, broken: list[int]) -> Metric:
    reasons = [
        f"the {side} model's output is not finite for {count} samples"
        for side, count in zip(("dense", "compressed"), broken, strict=True)
        if count
    ]
    if not reasons:
        return metric
    return metric.model_copy(
        update={
            "dense": None if broken[0] else metric.dense,
            "compressed": None if broken[1] else metric.compressed,
            "difference": None,
            "interval": None,
            "reason": "; ".join(reasons),
        }
    )
