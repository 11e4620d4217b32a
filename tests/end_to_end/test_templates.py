"""Any model through the running service: exported by the client, scored as torch scores it."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.real.scored import Part, by_torch
from rankpress import Client
from rankpress.client import Compressed
from rankpress.names import Action, ArchitectureKind, Rule
from rankpress.schemas.report import EvaluationReport
from tests.end_to_end.architectures import MODELS, install, trained
from tests.end_to_end.processes import Service

HELD_OUT = 400


class Data(NamedTuple):
    """images: float32 [n, 28, 28]; labels: int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor


class Case(NamedTuple):
    """A trained model and what the service made of it."""

    kind: str
    dense: nn.Module
    done: Compressed


@pytest.fixture(scope="module")
def fashion(example_validation: Path) -> Data:
    arrays = load_file(example_validation)
    return Data(arrays["inputs"].float().reshape(-1, 28, 28), arrays["targets"])


@pytest.fixture(scope="module")
def held_out(fashion: Data) -> Data:
    return Data(fashion.images[-HELD_OUT:], fashion.labels[-HELD_OUT:])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose operator has installed the models as factories."""
    running = Service(tmp_path_factory.mktemp("service"))
    try:
        running.start_api()
        running.start_worker(PYTHONPATH=install(tmp_path_factory.mktemp("installed")))
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module", params=sorted(MODELS))
def case(request: pytest.FixtureRequest, installed: Service, fashion: Data, held_out: Data) -> Case:
    kind = request.param
    dense = trained(kind, fashion.images[:-HELD_OUT], fashion.labels[:-HELD_OUT])
    with Client(installed.url) as client:
        done = client.compress(
            copy.deepcopy(dense),
            rule=Rule.RATIO,
            threshold=0.4,
            validation={"inputs": held_out.images, "targets": held_out.labels},
            example_inputs=held_out.images[:2],
            timeout=300,
        )
    return Case(kind, dense, done)


def scored(done: Compressed) -> EvaluationReport:
    assert done.report.evaluation is not None
    return done.report.evaluation


def test_every_metric_of_both_models_is_torchs(case: Case, held_out: Data) -> None:
    metrics = {m.name: (m.dense, m.compressed) for m in scored(case.done).metrics}
    part = Part(inputs={"inputs": held_out.images}, targets=held_out.labels)
    direct = by_torch(case.dense, case.done.model, part)
    assert metrics.keys() == direct.keys()
    for name, (dense, compressed) in direct.items():
        assert metrics[name] == pytest.approx((dense, compressed), abs=1e-4), name
    dense, compressed = direct["cross_entropy"]
    assert dense != pytest.approx(compressed, abs=1e-3)


def test_the_report_is_of_this_model(case: Case) -> None:
    report, evaluation = case.done.report, scored(case.done)
    assert report.protected_output == "output.weight"
    assert not report.protected_output_assumed
    assert evaluation.artifact_sha256 == report.output_sha256
    assert evaluation.architecture.startswith("template, opset")
    assert not evaluation.architecture_assumed
    assert evaluation.samples == HELD_OUT
    assert any("2 reference samples" in note for note in evaluation.notes)
    factorised = {x.name for x in report.layers if x.action is Action.FACTORISED}
    assert (
        factorised
        >= {
            "mlp": {"hidden1.weight", "hidden2.weight"},
            "cnn": {"body.weight", "hidden.weight"},
            "lstm": {"lstm.weight_ih_l0", "lstm.weight_hh_l1"},
        }[case.kind]
    )
    assert evaluation.latency or case.kind == "lstm"  # an LSTM's node takes no factors
    assert report.flops_per_sample_before == evaluation.flops_per_sample_dense
    assert report.flops_per_sample_after == evaluation.flops_per_sample_compressed
    if case.kind != "lstm":
        assert report.flops_per_sample_before > report.flops_per_sample_after > 0


def test_every_way_to_the_architecture_gives_the_same_metrics(
    case: Case, installed: Service, held_out: Data
) -> None:
    ways = [{"kind": ArchitectureKind.FACTORY, "name": f"test-{case.kind}"}]
    if case.kind == "mlp":
        ways.append({"kind": ArchitectureKind.MLP})
    wanted = {m.name: m for m in scored(case.done).metrics}
    for way in ways:
        with Client(installed.url) as client:
            done = client.compress(
                case.dense.state_dict(),
                rule=Rule.RATIO,
                threshold=0.4,
                validation={"inputs": held_out.images, "targets": held_out.labels},
                evaluation={"architecture": way, "latency": False},
                timeout=300,
            )
        found = {m.name: m for m in scored(done).metrics}
        assert found.keys() == wanted.keys()
        for name, metric in found.items():
            assert metric.dense == pytest.approx(wanted[name].dense, abs=1e-4), (way, name)
            assert metric.compressed == pytest.approx(wanted[name].compressed, abs=1e-4), (
                way,
                name,
            )
        assert done.report.output_sha256 == case.done.report.output_sha256


def test_a_whole_onnx_model_gives_the_same_metrics(
    case: Case, installed: Service, held_out: Data, tmp_path: Path
) -> None:
    """The factors are of the same weights; what runs is the file that came back."""
    path = exported(case.dense, held_out.images[:2], tmp_path / "model.onnx")
    with Client(installed.url) as client:
        done = client.compress(
            path,
            rule=Rule.RATIO,
            threshold=0.4,
            validation={"inputs": held_out.images, "targets": held_out.labels},
            evaluation={"latency": False},
            timeout=300,
        )
    wanted = {m.name: m for m in scored(case.done).metrics}
    found = {m.name: m for m in scored(done).metrics}
    assert found.keys() == wanted.keys()
    for name, metric in found.items():
        assert metric.dense == pytest.approx(wanted[name].dense, abs=1e-4), name
        assert metric.compressed == pytest.approx(wanted[name].compressed, abs=1e-4), name
    assert scored(done).architecture.startswith("onnx, opset")
    assert done.report.protected_output == "output.weight"
    factorised = {x.name for x in done.report.layers if x.action is Action.FACTORISED}
    assert factorised == {x.name for x in case.done.report.layers if x.action is Action.FACTORISED}
    assert done.path == tmp_path / "model-compressed.onnx"
    made = onnx.load(done.path)
    onnx.checker.check_model(made, full_check=True)
    assert done.path.stat().st_size < path.stat().st_size
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"inputs": held_out.images.numpy()})
    loss = float(nn.functional.cross_entropy(torch.from_numpy(logits).double(), held_out.labels))
    assert found["cross_entropy"].compressed == pytest.approx(loss, abs=1e-5)


def exported(model: nn.Module, images: torch.Tensor, path: Path) -> Path:
    """As a caller exports a model, but for the optimisations: those fold a weight into another."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (images,),
            input_names=["inputs"],
            dynamo=True,
            optimize=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    program.save(str(path))
    return path
