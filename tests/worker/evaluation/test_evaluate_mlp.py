"""Reports on chains of linear layers equal direct torch, torchmetrics and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error

from rankpress.names import Activation, Verdict
from tests.worker.evaluation.evaluation_helpers import (
    SHA,
    request,
    restored,
    run,
    values,
    write_npz,
    write_safetensors,
)

CLASSES = 7


def network(activation: nn.Module, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(20, 33), activation, nn.Linear(33, 18), activation, nn.Linear(18, CLASSES)
    ).eval()


@pytest.fixture
def model() -> nn.Sequential:
    return network(nn.ReLU())


@pytest.fixture
def labelled(model: nn.Sequential) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(301, 4, 5, generator=generator) * 3
    with torch.no_grad():
        noise = torch.randn(301, CLASSES, generator=generator) * 0.3
        targets = (model(inputs.flatten(1)) + noise).argmax(1)
    return inputs, targets


RANKS = {"0.weight": 6, "2.weight": 5}


def direct(model: nn.Module, state, inputs, targets) -> dict[str, float]:
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model(inputs.flatten(1)).double()
    said = logits.argmax(1)
    return {
        "accuracy": sk.accuracy_score(targets, said),
        "macro_f1": sk.f1_score(targets, said, average="macro"),
        "top5_accuracy": float(
            (logits.argsort(1, descending=True)[:, :5] == targets[:, None]).any(1).double().mean()
        ),
        "cross_entropy": float(functional.cross_entropy(logits, targets)),
        "calibration_error": float(
            multiclass_calibration_error(logits.softmax(1), targets, CLASSES, n_bins=15)
        ),
    }


@pytest.mark.parametrize("kind", ["npz", "safetensors", "deflated"])
def test_dense_and_compressed_equal_direct_evaluation(tmp_path, model, labelled, kind):
    inputs, targets = labelled
    path = tmp_path / "v"
    if kind == "safetensors":
        write_safetensors(path, inputs=inputs, targets=targets)
    elif kind == "npz":
        path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    else:
        path = tmp_path / "v.npz"
        np.savez_compressed(path, inputs=inputs.numpy(), targets=targets.numpy())
    state = model.state_dict()
    report, small, manifest = run(request(), state, RANKS, path)
    wanted = [
        direct(network(nn.ReLU()), s, inputs, targets) for s in (state, restored(small, manifest))
    ]
    got = values(report)
    for name, dense in wanted[0].items():
        assert got[name] == pytest.approx((dense, wanted[1][name]), abs=1e-6), name
    assert wanted[0] != wanted[1]
    assert report.samples == 301
    assert report.architecture == "mlp 20-33-18-7, relu"
    assert report.architecture_assumed
    assert report.artifact_sha256 == SHA
    assert report.device == "cpu"
    for metric in report.metrics:
        assert metric.difference == pytest.approx(metric.compressed - metric.dense)
        if metric.interval:
            assert metric.interval.low <= metric.difference <= metric.interval.high
    assert {m.name for m in report.metrics if m.interval is None} == {"worst_relative_output_error"}


def test_fidelity_metrics_equal_direct_computation(tmp_path, model, labelled):
    inputs, targets = labelled
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    state = model.state_dict()
    report, small, manifest = run(request(), state, RANKS, path)
    with torch.no_grad():
        dense = model(inputs.flatten(1)).double()
        model.load_state_dict(restored(small, manifest))
        compressed = model(inputs.flatten(1)).double()
    error = compressed - dense
    ratios = error.norm(dim=1) / dense.norm(dim=1)
    got = values(report)
    assert got["agreement"] == pytest.approx(
        (1.0, float((dense.argmax(1) == compressed.argmax(1)).double().mean()))
    )
    assert got["relative_output_error"] == pytest.approx(
        (0.0, float(error.norm() / dense.norm())), abs=1e-6
    )
    assert got["worst_relative_output_error"] == pytest.approx((0.0, float(ratios.max())), abs=1e-5)
    worst = next(m for m in report.metrics if m.name == "worst_relative_output_error")
    assert worst.reason.startswith(f"sample {int(ratios.argmax())};")


@pytest.mark.parametrize("activation", list(Activation))
def test_each_activation(tmp_path, activation):
    module = {
        Activation.RELU: nn.ReLU(),
        Activation.GELU: nn.GELU(),
        Activation.SILU: nn.SiLU(),
        Activation.TANH: nn.Tanh(),
        Activation.SIGMOID: nn.Sigmoid(),
        Activation.LEAKY_RELU: nn.LeakyReLU(),
        Activation.IDENTITY: nn.Identity(),
    }[activation]
    model = network(module, seed=3)
    inputs = torch.randn(40, 20) * 2
    targets = torch.randint(0, CLASSES, (40,))
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    asked = request(architecture={"kind": "mlp", "activation": activation})
    report, _, _ = run(asked, model.state_dict(), RANKS, path)
    with torch.no_grad():
        wanted = float(functional.cross_entropy(model(inputs).double(), targets))
    assert values(report)["cross_entropy"][0] == pytest.approx(wanted, abs=1e-6)


def test_an_uncompressed_model_differs_in_nothing(tmp_path, model, labelled):
    inputs, targets = labelled
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    report, _, _ = run(request(max_drop={"cross_entropy": 0.0}), model.state_dict(), {}, path)
    assert all(m.difference == 0 for m in report.metrics)
    assert report.verdict is Verdict.WITHIN


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(tmp_path, model, labelled, dtype):
    inputs, targets = labelled
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    report, small, manifest = run(request(), state, RANKS, path)
    compute = torch.float64 if dtype is torch.float64 else torch.float32
    reference = network(nn.ReLU()).to(compute)
    up = {
        name: tensor.to(compute)
        for name, tensor in restored({n: t.to(compute) for n, t in small.items()}, manifest).items()
    }
    wanted = direct(reference, up, inputs.to(compute), targets)
    assert values(report)["cross_entropy"][1] == pytest.approx(wanted["cross_entropy"], abs=1e-6)
    told = any("evaluated in float32" in note for note in report.notes)
    assert told == (compute is torch.float32)


def test_integer_images_are_cast_and_not_scaled(tmp_path):
    model = network(nn.ReLU())
    images = torch.randint(0, 256, (50, 20), dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (50,))
    path = write_npz(tmp_path / "v.npz", inputs=images, targets=targets)
    report, _, _ = run(request(), model.state_dict(), RANKS, path)
    with torch.no_grad():
        wanted = float(functional.cross_entropy(model(images.float()).double(), targets))
    assert values(report)["cross_entropy"][0] == pytest.approx(wanted, rel=1e-6)
    assert any("without scaling" in note for note in report.notes)


def test_the_batch_size_changes_no_value(tmp_path, model, labelled):
    inputs, targets = labelled
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    state = model.state_dict()
    one, _, _ = run(request(batch_size=7), state, RANKS, path)
    other, _, _ = run(request(batch_size=301), state, RANKS, path)
    for a, b in zip(one.metrics, other.metrics, strict=True):
        assert a.compressed == pytest.approx(b.compressed, abs=1e-6)
        if a.interval:
            assert a.interval.low == pytest.approx(b.interval.low, abs=1e-6)


def test_latency_of_one_sample_and_of_the_batch(tmp_path, model, labelled):
    inputs, targets = labelled
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    report, _, _ = run(request(batch_size=64), model.state_dict(), RANKS, path)
    assert [latency.batch_size for latency in report.latency] == [1, 64]
    for latency in report.latency:
        assert latency.dense_seconds > 0
        assert latency.repeats >= 9
        assert latency.threads == torch.get_num_threads()
        assert latency.speedup == pytest.approx(latency.dense_seconds / latency.compressed_seconds)


def test_answers_that_are_not_finite_become_null_with_a_reason(tmp_path, model, labelled):
    inputs, targets = labelled
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    state = model.state_dict()
    state["4.bias"] = torch.full((CLASSES,), float("nan"))
    report, _, _ = run(request(), state, RANKS, path)
    for metric in report.metrics:
        assert metric.dense is None
        assert metric.difference is None
        assert metric.interval is None
        assert "301 samples" in metric.reason
    assert "NaN" not in report.model_dump_json()


def test_dense_layout_is_scored_as_it_is(tmp_path, model, labelled):
    from rankpress.names import OutputLayout
    from rankpress.schemas.manifest import Manifest
    from tests.worker.evaluation.evaluation_helpers import CPU, MemoryCheckpoint
    from worker.evaluation import check_evaluation, evaluate

    inputs, targets = labelled
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    dense = MemoryCheckpoint(model.state_dict())
    changed = {name: tensor * 0.9 for name, tensor in dense.state.items()}
    plan = check_evaluation(request(), dense.tensors, path, None)
    manifest = Manifest(layout=OutputLayout.DENSE, layers=())
    report = evaluate(
        plan,
        request(),
        dense,
        MemoryCheckpoint(changed),
        manifest,
        path,
        SHA,
        CPU,
        lambda done, total: None,
    )
    wanted = direct(network(nn.ReLU()), changed, inputs, targets)
    assert values(report)["cross_entropy"][1] == pytest.approx(wanted["cross_entropy"], abs=1e-6)


def test_tied_layers_follow_the_manifests_aliases(tmp_path):
    from tests.worker.evaluation.evaluation_helpers import CPU, MemoryCheckpoint, truncated
    from worker.evaluation import check_evaluation, evaluate

    torch.manual_seed(0)
    square = torch.randn(12, 12)
    state = {
        "0.weight": torch.randn(12, 9),
        "1.weight": square,
        "2.weight": square,
        "3.weight": torch.randn(5, 12),
    }
    inputs, targets = torch.randn(30, 9), torch.randint(0, 5, (30,))
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    dense = MemoryCheckpoint(state)
    asked = request(architecture={"kind": "mlp", "activation": "tanh"})
    plan = check_evaluation(asked, dense.tensors, path, None)
    small, manifest = truncated(
        {n: t for n, t in state.items() if n != "2.weight"}, {"1.weight": 4}
    )
    manifest = manifest.model_copy(update={"aliases": {"2.weight": "1.weight"}})
    report = evaluate(
        plan, asked, dense, MemoryCheckpoint(small), manifest, path, SHA, CPU, lambda d, t: None
    )
    tied = small["1.1.weight"] @ small["1.0.weight"]
    x = (inputs @ state["0.weight"].T).tanh()
    x = ((x @ tied.T).tanh() @ tied.T).tanh() @ state["3.weight"].T
    wanted = float(functional.cross_entropy(x.double(), targets))
    assert values(report)["cross_entropy"][1] == pytest.approx(wanted, abs=1e-6)
