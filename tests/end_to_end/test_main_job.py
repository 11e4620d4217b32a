"""The main job on the example model: upload to download, on SQLite and on PostgreSQL."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from rankpress import Client
from rankpress.loading import load_compressed
from rankpress.names import Action, Reason, Rule, State
from rankpress.schemas.report import LayerReport, RankReport
from rankpress.schemas.request import Evaluation, JobRequest
from tests.end_to_end.processes import Service

TAUS = (0.5, 0.8, 0.9, 0.95, 0.99, 1.0)
RULES = (Rule.ENTROPY, Rule.ENTROPY_SQUARED, Rule.ENERGY, Rule.RATIO)


def reference_rank(rule: Rule, weight_MN: np.ndarray, tau: float) -> int:
    """The rank by the formulas of the method, in float64, written apart from the worker's code."""
    m, n = weight_MN.shape
    s = np.linalg.svd(weight_MN.astype(np.float64), compute_uv=False)
    if rule is Rule.RATIO:
        return min(max(1, int(tau * m * n / (m + n))), min(m, n))
    if tau == 1.0:
        return int((s > np.finfo(weight_MN.dtype).eps * max(m, n) * s[0]).sum())
    if rule is Rule.ENERGY:
        parts = s**2
    else:
        p = s / s.sum() if rule is Rule.ENTROPY else s**2 / (s**2).sum()
        parts = np.array([-x * np.log(x) if x > 0 else 0.0 for x in p])
    cumulative = np.cumsum(parts)
    return int(np.argmax(cumulative >= tau * cumulative[-1])) + 1


def mlp(state: dict[str, torch.Tensor]) -> nn.Sequential:
    """The example's architecture, from the shapes of its weights alone."""
    names = [k.removesuffix(".weight") for k in state if k.endswith(".weight")]
    widest_first = sorted(names, key=lambda n: -state[f"{n}.weight"].shape[1])
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, name in enumerate(widest_first):
        rows, columns = state[f"{name}.weight"].shape
        layers[name] = nn.Linear(columns, rows)
        if i < len(widest_first) - 1:
            layers[f"relu{i}"] = nn.ReLU()
    model = nn.Sequential(layers)
    model.load_state_dict(state, strict=True)
    return model


def test_example_goes_through(
    service: Service, example_model: Path, example_validation: Path, tmp_path: Path
) -> None:
    with Client(service.url) as client:
        model = client.upload(example_model)
        validation = client.upload(example_validation)
        request = JobRequest(
            model=model.id, threshold=0.9, evaluation=Evaluation(validation=validation.id)
        )
        job = client.wait(client.submit(request).id)
        assert job.state is State.SUCCEEDED
        report = client.report(job.id)
        out = client.download(job.id, tmp_path / "out.safetensors")

    dense = load_file(example_model)
    compressed = load_file(out)
    assert report.input_sha256 == (model.sha256,)
    assert out.stat().st_size == report.bytes_after < report.bytes_before
    assert sum(t.numel() for t in compressed.values()) == report.parameters_after
    check_layers(report, dense, compressed)

    # A plain nn.Sequential of two linears for each factorised layer, as the contract says.
    plain = plain_torch(report, dense, compressed)
    swapped = load_compressed(mlp(dense), out)
    data = load_file(example_validation)
    inputs = data["inputs"].flatten(1).float()
    with torch.inference_mode():
        logits = plain(inputs)
        torch.testing.assert_close(swapped(inputs), logits, rtol=1e-5, atol=1e-5)
    assert report.evaluation is not None
    assert report.evaluation.artifact_sha256 == report.output_sha256
    metrics = {m.name: m for m in report.evaluation.metrics}
    targets = data["targets"]
    accuracy = multiclass_accuracy(logits, targets, num_classes=10, average="micro")
    f1 = multiclass_f1_score(logits, targets, num_classes=10, average="macro")
    loss = nn.functional.cross_entropy(logits, targets)
    assert metrics["accuracy"].compressed == pytest.approx(float(accuracy), abs=1e-6)
    assert metrics["macro_f1"].compressed == pytest.approx(float(f1), abs=1e-5)
    assert metrics["cross_entropy"].compressed == pytest.approx(float(loss), abs=1e-5)
    interval = metrics["accuracy"].interval
    assert interval is not None
    assert interval.low <= (metrics["accuracy"].difference or 0.0) <= interval.high
    assert report.evaluation.latency


def plain_torch(
    report: RankReport, dense: dict[str, torch.Tensor], compressed: dict[str, torch.Tensor]
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in mlp(dense).named_children():
        layer = next((x for x in report.layers if x.name == f"{name}.weight"), None)
        if layer is not None and layer.action is Action.FACTORISED:
            rows, columns = layer.shape
            assert layer.rank is not None
            layers[name] = nn.Sequential(
                nn.Linear(columns, layer.rank, bias=False), nn.Linear(layer.rank, rows)
            )
        else:
            layers[name] = module
    model = nn.Sequential(layers)
    model.load_state_dict(compressed, strict=True)
    return model


def check_layers(
    report: RankReport, dense: dict[str, torch.Tensor], compressed: dict[str, torch.Tensor]
) -> None:
    for layer in report.layers:
        before = dense[layer.name]
        assert layer.shape == tuple(before.shape)
        if layer.action is Action.FACTORISED:
            right, left = (compressed[k] for k in layer.factor_keys)
            assert right.dtype == left.dtype == before.dtype
            check_error(layer, before, left.double() @ right.double())
        elif f"{layer.name.removesuffix('bias')}1.bias" in compressed:
            assert torch.equal(before, compressed[f"{layer.name.removesuffix('bias')}1.bias"])
        else:
            assert torch.equal(before, compressed[layer.name])


def check_error(layer: LayerReport, before: torch.Tensor, product: torch.Tensor) -> None:
    weight = before.double()
    s = torch.linalg.svdvals(weight)
    error = torch.linalg.matrix_norm(weight - product)
    optimum = s[layer.rank :].square().sum().sqrt()
    assert error <= 1.001 * optimum + 1e-6 * s[0]
    assert layer.relative_error == pytest.approx(
        float(error / torch.linalg.matrix_norm(weight)), rel=1e-3, abs=1e-6
    )


@pytest.mark.parametrize("rule", RULES)
def test_ranks_equal_the_float64_reference(
    rule: Rule, sqlite_service: Service, example_model: Path
) -> None:
    dense = {k: v.numpy() for k, v in load_file(example_model).items()}
    with Client(sqlite_service.url) as client:
        job = client.submit(
            model=client.upload(example_model).id, rule=rule, threshold=TAUS, protect_output=False
        )
        client.wait(job.id)
    for result, tau in enumerate(TAUS):
        answer = httpx.get(f"{sqlite_service.url}/v1/jobs/{job.id}/report?result={result}")
        report = RankReport.model_validate(answer.json())
        assert report.threshold == tau
        matrices = [x for x in report.layers if len(x.shape) == 2]
        assert len(matrices) == 3
        for layer in matrices:
            m, n = dense[layer.name].shape
            expected = reference_rank(rule, dense[layer.name], tau)
            assert layer.rank == expected, (layer.name, rule, tau)
            if expected * (m + n) < m * n:
                assert layer.action is Action.FACTORISED
            else:
                assert layer.reason is Reason.ABOVE_BREAK_EVEN


def test_pt_in_pt_out(sqlite_service: Service, example_model: Path, tmp_path: Path) -> None:
    state = load_file(example_model)
    saved = io.BytesIO()
    torch.save(state, saved)
    (tmp_path / "model.pt").write_bytes(saved.getvalue())
    with Client(sqlite_service.url) as client:
        done = client.compress(tmp_path / "model.pt", threshold=0.9, out=tmp_path / "out.pt")
        report = done.report
    compressed = torch.load(tmp_path / "out.pt", weights_only=True)
    check_layers(report, state, compressed)
    plain_torch(report, state, compressed)


def test_nothing_to_factorise_gives_the_input_back(sqlite_service: Service, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"bias": torch.arange(5.0), "ids": torch.arange(6).reshape(2, 3)}, tmp_path / "m")
    with Client(sqlite_service.url) as client:
        done = client.compress(tmp_path / "m", threshold=0.9, out=tmp_path / "out")
        report = done.report
    assert (tmp_path / "out").read_bytes() == (tmp_path / "m").read_bytes()
    assert {x.name: x.reason for x in report.layers} == {
        "bias": Reason.NOT_A_MATRIX,
        "ids": Reason.INTEGER,
    }
