"""The tasks other than classification, against scikit-learn, scipy and plain torch."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn import metrics as sk
from torch import nn
from torch.nn import functional

from rankpress.names import Task
from tests.worker.evaluation.evaluation_helpers import request, restored, run, values, write_npz
from worker.evaluation.metrics.base import Outputs
from worker.evaluation.metrics.language import LanguageScores

RANKS = {"0.weight": 4}


def network(outputs: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 15), nn.ReLU(), nn.Linear(15, outputs)).eval()


def both(model: nn.Module, small, manifest, inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        dense = model(inputs).double()
        model.load_state_dict(restored(small, manifest))
        return [dense, model(inputs).double()]


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(120, 12, generator=torch.Generator().manual_seed(5))


def holds_differences(report) -> None:
    for metric in report.metrics:
        if metric.interval:
            assert metric.interval.low <= metric.difference <= metric.interval.high


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression(tmp_path, inputs, outputs):
    model = network(outputs)
    targets = torch.randn(120, outputs) * 2 + 100
    if outputs == 1:
        targets = targets.squeeze(1)
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets)
    report, small, manifest = run(request(task="regression"), model.state_dict(), RANKS, path)
    got = values(report)
    y = targets.reshape(120, -1).numpy()
    for side, output in enumerate(both(model, small, manifest, inputs)):
        o = output.numpy()
        assert got["mae"][side] == pytest.approx(sk.mean_absolute_error(y, o), rel=1e-6)
        assert got["mse"][side] == pytest.approx(sk.mean_squared_error(y, o), rel=1e-6)
        assert got["r2"][side] == pytest.approx(sk.r2_score(y, o), rel=1e-6)
    assert "agreement" not in got
    holds_differences(report)


def test_r2_of_targets_that_do_not_vary_is_null(tmp_path, inputs):
    model = network(1)
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=np.full(120, 3.0))
    report, _, _ = run(request(task="regression"), model.state_dict(), RANKS, path)
    r2 = next(m for m in report.metrics if m.name == "r2")
    assert (r2.dense, r2.compressed, r2.interval) == (None, None, None)
    assert "do not vary" in r2.reason


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_multilabel(tmp_path, inputs, dtype):
    model = network(5)
    targets = (torch.rand(120, 5) < 0.4).numpy()
    path = write_npz(tmp_path / "v.npz", inputs=inputs, targets=targets.astype(dtype))
    report, small, manifest = run(request(task="multilabel"), model.state_dict(), RANKS, path)
    got = values(report)
    y = targets.astype(int)
    outputs = both(model, small, manifest, inputs)
    for side, logits in enumerate(outputs):
        said = (logits > 0).numpy().astype(int)
        assert got["accuracy"][side] == pytest.approx((said == y).mean())
        assert got["exact_match"][side] == pytest.approx(sk.accuracy_score(y, said))
        assert got["macro_f1"][side] == pytest.approx(sk.f1_score(y, said, average="macro"))
        entropy = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y).double())
        assert got["cross_entropy"][side] == pytest.approx(float(entropy), abs=1e-6)
    same = ((outputs[0] > 0) == (outputs[1] > 0)).all(1).double().mean()
    assert got["agreement"][1] == pytest.approx(float(same))
    holds_differences(report)


def test_embedding_with_pairs_and_scores(tmp_path, inputs):
    model = network(6)
    pair = inputs + torch.randn(120, 12) * torch.linspace(0, 3, 120)[:, None]
    scores = (torch.linspace(5, 0, 120) + torch.randn(120)).round()  # with ties
    path = write_npz(tmp_path / "v.npz", inputs=inputs, inputs_pair=pair, targets=scores)
    asked = request(task="embedding", max_drop={"spearman": 0.5, "cosine_to_dense": 1.0})
    report, small, manifest = run(asked, model.state_dict(), RANKS, path)
    got = values(report)
    first = both(model, small, manifest, inputs)
    model.load_state_dict(network(6).state_dict())
    second = both(model, small, manifest, pair)
    assert got["cosine_to_dense"] == pytest.approx(
        (1.0, float(functional.cosine_similarity(*first).mean())), abs=1e-6
    )
    for side in (0, 1):
        similarity = functional.cosine_similarity(first[side], second[side])
        wanted = spearmanr(similarity.numpy(), scores.numpy()).statistic
        assert got["spearman"][side] == pytest.approx(wanted, abs=1e-3)
    holds_differences(report)
    assert report.verdict is not None


def test_unlabelled_data_gives_fidelity_alone(tmp_path, inputs):
    model = network(4)
    path = write_npz(tmp_path / "v.npz", inputs=inputs)
    report, small, manifest = run(request(task="fidelity"), model.state_dict(), RANKS, path)
    dense, compressed = both(model, small, manifest, inputs)
    assert set(values(report)) == {
        "cosine_to_dense",
        "agreement",
        "relative_output_error",
        "worst_relative_output_error",
    }
    assert values(report)["cosine_to_dense"][1] == pytest.approx(
        float(functional.cosine_similarity(dense, compressed).mean()), abs=1e-6
    )
    assert report.task is Task.FIDELITY


def test_language_scores_equal_direct_computation():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(9, 6, 11, generator=generator)
    compressed = dense + torch.randn(9, 6, 11, generator=generator) * 0.3
    targets = torch.randint(0, 11, (9, 6), generator=generator)
    targets[:, 4:] = -100
    scores = LanguageScores(9)
    for part in (slice(0, 5), slice(5, 9)):
        scores.update(
            Outputs(dense=dense[part], compressed=compressed[part], targets=targets[part])
        )
    found = {m.name: m for m in scores.compute()}
    for side, logits in (("dense", dense), ("compressed", compressed)):
        loss = functional.cross_entropy(
            logits.double().flatten(0, 1), targets.flatten(), ignore_index=-100
        )
        right = (logits.argmax(-1) == targets)[targets != -100].double().mean()
        assert getattr(found["cross_entropy"], side) == pytest.approx(float(loss), abs=1e-6)
        assert getattr(found["perplexity"], side) == pytest.approx(float(loss.exp()), rel=1e-5)
        assert getattr(found["accuracy"], side) == pytest.approx(float(right))
    for metric in found.values():
        assert metric.interval.low <= metric.difference <= metric.interval.high


def test_a_text_without_scored_tokens_is_null_with_a_reason():
    scores = LanguageScores(2)
    logits = torch.zeros(2, 3, 5)
    scores.update(Outputs(dense=logits, compressed=logits, targets=torch.full((2, 3), -100)))
    for metric in scores.compute():
        assert metric.dense is None
        assert metric.reason == "no token is scored"
