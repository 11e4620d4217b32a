"""Jobs whose ranks are chosen together, with several results, or by samples: stage after stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rankpress
from rankpress.errors import EvaluationMismatch, InvalidRequest
from rankpress.loading import load_compressed
from rankpress.names import Action, Aware, Reason, Sensitivity
from tests.worker.networks import mlp
from tests.worker.pipelinekit import Done, run

WIDTHS = (24, 40, 32, 5)
SAMPLES = 400
EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network whose answers are learnt, and samples that lie near a subspace."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small products gain nothing by more
    basis = torch.randn(6, WIDTHS[0])
    inputs = torch.randn(SAMPLES, 6) @ basis + 0.1 * torch.randn(SAMPLES, WIDTHS[0]) + 0.5
    targets = (inputs @ torch.randn(WIDTHS[0], 5)).argmax(dim=1)
    save_file({"inputs": inputs, "targets": targets}, folder / "validation")
    for name, bias in (("model", True), ("bare", False)):
        model = mlp(WIDTHS, bias=bias)
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(150):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimiser.step()
        save_file({k: v.detach() for k, v in model.state_dict().items()}, folder / name)
    torch.set_num_threads(threads)
    return {name: folder / name for name in ("validation", "model", "bare")}


def job(
    made: dict[str, Path], folder: Path, model: str = "model", files: dict[str, Path] | None = None,
    **fields: Any,
) -> list[Done]:  # fmt: skip
    files = {"validation": made["validation"]} | (files or {})
    return run(folder, made[model], files=files, **({"evaluation": {"validation": "v"}} | fields))


def numbers(path: Path) -> int:
    return sum(t.numel() for t in load_file(path).values())


def metric(done: Done, name: str = "accuracy") -> float:
    assert done.evaluation is not None
    (found,) = [m.compressed for m in done.evaluation.metrics if m.name == name]
    assert found is not None
    return found


@pytest.mark.parametrize("aware", list(Aware))
def test_budgets_are_kept_in_the_file_itself(
    aware: Aware, made: dict[str, Path], tmp_path: Path
) -> None:
    shares = [0.5, 0.8]
    budgets = [{"parameters": share} for share in shares]
    found = job(made, tmp_path, rule="budget", budget=budgets, aware=aware)
    whole = numbers(made["model"])
    dense = load_file(made["model"])
    for share, done in zip(shares, found, strict=True):
        assert 0.9 * share * whole < numbers(done.path) <= share * whole
        compressed = load_file(done.path)
        for layer in done.layers.values():
            if layer.action is Action.FACTORISED:
                right, left = (compressed[key].double() for key in layer.factor_keys)
                assert right.shape[0] == left.shape[1] == layer.rank
                before = dense[layer.name].double()
                error = torch.linalg.norm(before - left @ right) / torch.linalg.norm(before)
                assert layer.relative_error == pytest.approx(float(error), rel=1e-4)
    assert metric(found[1]) >= metric(found[0]) - 0.02


def test_budget_ranks_are_the_best_of_all(made: dict[str, Path], tmp_path: Path) -> None:
    """Against every pair of ranks, with numpy's own spectra."""
    share = 0.5
    (done,) = job(made, tmp_path, rule="budget", budget={"parameters": share})
    dense = load_file(made["model"])
    limit = share * numbers(made["model"]) - sum(
        t.numel() for k, t in dense.items() if k not in ("0.weight", "2.weight")
    )
    options = []
    for key in ("0.weight", "2.weight"):
        s = np.linalg.svd(dense[key].double().numpy(), compute_uv=False)
        m, n = dense[key].shape
        kept = [(k * (m + n), (s[k:] ** 2).sum() / (s**2).sum()) for k in range(1, len(s) + 1)]
        options.append([*kept, (m * n, 0.0)])
    best = min(e + f for c, e in options[0] for d, f in options[1] if c + d <= limit)
    lost = 0.0
    for layer in done.layers.values():
        lost += (layer.relative_error or 0.0) ** 2
    assert lost == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("aware", [Aware.NONE, Aware.TWO_SIDED])
def test_each_result_is_that_of_a_job_of_its_own(
    aware: Aware, made: dict[str, Path], tmp_path: Path
) -> None:
    taus = [0.5, 0.9, 0.5]
    found = job(made, tmp_path, rule="energy", threshold=taus, aware=aware)
    for i, tau in enumerate(taus):
        folder = tmp_path / str(i)
        folder.mkdir()
        (alone,) = job(made, folder, rule="energy", threshold=tau, aware=aware)
        assert alone.path.read_bytes() == found[i].path.read_bytes()
        assert all(
            a.threshold == b.threshold and a.rank == b.rank
            for a, b in zip(alone.layers.values(), found[i].layers.values(), strict=True)
        )


def test_errors_have_no_mean_left(made: dict[str, Path], tmp_path: Path) -> None:
    """The corrected bias takes up the mean of the first layer's error, on what calibrated it."""
    (done,) = job(made, tmp_path, rule="budget", budget={"parameters": 0.5}, aware="inputs")
    dense, compressed = load_file(made["model"]), load_file(done.path)
    inputs = load_file(made["validation"])["inputs"][::5]
    before = inputs @ dense["0.weight"].T + dense["0.bias"]
    after = (
        inputs @ (compressed["0.1.weight"] @ compressed["0.0.weight"]).T + compressed["0.1.bias"]
    )
    error = (before - after).double()
    assert float(error.mean(dim=0).abs().max()) < 1e-5
    assert float(error.std(dim=0).max()) > 1e-3
    assert done.layers["0.bias"].note == "changed by the mean of the error of 0.weight"
    assert not torch.equal(compressed["0.1.bias"], dense["0.bias"])
    assert torch.equal(compressed["4.bias"], dense["4.bias"])


def test_a_layer_without_a_bias_gets_one(made: dict[str, Path], tmp_path: Path) -> None:
    (done,) = job(
        made, tmp_path, "bare", rule="budget", budget={"parameters": 0.5}, aware="two_sided"
    )
    compressed = load_file(done.path)
    assert compressed["0.1.bias"].shape == (40,)
    assert done.layers["0.weight"].note == "with a new bias of 40 numbers, the mean of its error"
    counted = sum(layer.parameters_after for layer in done.layers.values())
    assert counted + 5 * 32 == numbers(done.path) <= 0.5 * numbers(made["bare"])
    # What was scored is what a caller loads.
    data = load_file(made["validation"])
    scored = [i for i in range(SAMPLES) if i % 5]
    with torch.inference_mode():
        answers = load_compressed(mlp(WIDTHS, bias=False), done.path)(data["inputs"][scored])
    accuracy = (answers.argmax(dim=1) == data["targets"][scored]).float().mean()
    assert metric(done) == pytest.approx(float(accuracy), abs=1e-6)
    assert done.evaluation is not None
    assert done.evaluation.samples == len(scored)


def test_awareness_pays(made: dict[str, Path], tmp_path: Path) -> None:
    """Cross entropy at the same size: the weights alone, the inputs, inputs and Jacobian."""
    lost = {}
    for aware in Aware:
        folder = tmp_path / aware
        folder.mkdir()
        (done,) = job(made, folder, rule="budget", budget={"parameters": 0.45}, aware=aware)
        lost[aware] = metric(done, "cross_entropy")
    assert lost[Aware.TWO_SIDED] < lost[Aware.INPUTS] < lost[Aware.NONE]


def test_the_softmax_keeps_more_of_a_classifier(tmp_path: Path) -> None:
    """Cross entropy of the example model at the same sizes."""
    lost = {}
    for sensitivity in Sensitivity:
        (folder := tmp_path / sensitivity).mkdir()
        done = run(
            folder, EXAMPLE / "model.safetensors",
            files={"validation": EXAMPLE / "validation.safetensors"},
            evaluation={"validation": "v"}, rule="budget", aware="two_sided",
            budget=[{"parameters": 0.04}, {"parameters": 0.06}], sensitivity=sensitivity,
        )  # fmt: skip
        lost[sensitivity] = [metric(one, "cross_entropy") for one in done]
    for output, softmax in zip(lost[Sensitivity.OUTPUT], lost[Sensitivity.SOFTMAX], strict=True):
        assert softmax < 0.98 * output


@pytest.mark.parametrize(
    ("aware", "sensitivity"),
    [
        (Aware.INPUTS, None),
        (Aware.TWO_SIDED, None),
        (Aware.TWO_SIDED, Sensitivity.OUTPUT),
        (Aware.TWO_SIDED, Sensitivity.SOFTMAX),
    ],
)
def test_the_callers_statistics_give_what_the_services_do(
    aware: Aware, sensitivity: Sensitivity | None, made: dict[str, Path], tmp_path: Path
) -> None:
    budget = {"rule": "budget", "budget": {"parameters": 0.5}, "aware": aware}
    (here,) = job(made, tmp_path, **budget, sensitivity=sensitivity)
    model = mlp(WIDTHS)
    model.load_state_dict(load_file(made["model"]))
    rows = load_file(made["validation"])["inputs"][::5]
    statistics = rankpress.collect_statistics(
        model,
        rows.split(13),
        tmp_path / "theirs",
        two_sided=aware is Aware.TWO_SIDED,
        sensitivity=sensitivity or Sensitivity.OUTPUT,
    )
    (folder := tmp_path / "b").mkdir()
    (theirs,) = job(made, folder, files={"statistics": statistics}, statistics="s", **budget)
    ours, other = load_file(here.path), load_file(theirs.path)
    assert ours.keys() == other.keys()
    for key in ("0", "2"):
        products = [t[f"{key}.1.weight"] @ t[f"{key}.0.weight"] for t in (ours, other)]
        torch.testing.assert_close(products[0], products[1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            ours[f"{key}.1.bias"], other[f"{key}.1.bias"], rtol=1e-5, atol=1e-5
        )
    assert theirs.evaluation is not None
    assert theirs.evaluation.samples == SAMPLES  # none was needed to calibrate on


def test_a_calibration_file_leaves_all_samples_to_be_scored(
    made: dict[str, Path], tmp_path: Path
) -> None:
    rows = load_file(made["validation"])["inputs"][::5].contiguous()
    save_file({"inputs": rows}, tmp_path / "calibration")
    (done,) = job(
        made, tmp_path, files={"calibration": tmp_path / "calibration"},
        rule="energy", threshold=0.9, aware="inputs",
        evaluation={"validation": "v", "calibration": "c"},
    )  # fmt: skip
    assert done.evaluation is not None
    assert done.evaluation.samples == SAMPLES
    assert any("80 samples of the calibration file" in note for note in done.evaluation.notes)
    (folder := tmp_path / "b").mkdir()
    (same,) = job(made, folder, rule="energy", threshold=0.9, aware="inputs")
    assert same.path.read_bytes() == done.path.read_bytes()


def test_layers_without_statistics_stay_dense(made: dict[str, Path], tmp_path: Path) -> None:
    model = mlp(WIDTHS)
    model.load_state_dict(load_file(made["model"]))
    rows = load_file(made["validation"])["inputs"]
    some = rankpress.collect_statistics(model, [rows], tmp_path / "s", layers=["0.weight"])
    (done,) = job(
        made, tmp_path, files={"statistics": some}, statistics="s", aware="inputs", threshold=0.5
    )
    assert set(done.layers) == {"0.weight", "0.bias"}
    assert load_file(done.path)["2.weight"].shape == (32, 40)


@pytest.mark.parametrize("max_drop", [{"accuracy": 0.2}, {"accuracy": 0.15, "cross_entropy": 0.4}])
def test_auto_takes_the_last_that_is_surely_within(
    max_drop: dict[str, float], made: dict[str, Path], tmp_path: Path
) -> None:
    (done,) = job(
        made, tmp_path, rule="auto", aware="two_sided",
        evaluation={"validation": "v", "max_drop": max_drop},
    )  # fmt: skip
    sizes = [point.parameters_after for point in done.tried]
    assert sizes == sorted(sizes, reverse=True)
    assert [p.accepted for p in done.tried[:-1]] == [True] * (len(done.tried) - 1)
    taken = [p for p in done.tried if p.accepted][-1]
    assert numbers(done.path) == taken.parameters_after
    for name, bound in max_drop.items():
        (found,) = [m for m in taken.metrics if m.name == name]
        assert found.interval is not None
        worst = -found.interval.low if found.higher_is_better else found.interval.high
        assert worst <= bound
    assert done.evaluation is not None
    assert done.evaluation.samples == 2 * SAMPLES // 5


def test_auto_says_when_the_bound_is_not_reached(made: dict[str, Path], tmp_path: Path) -> None:
    (done,) = job(
        made, tmp_path, rule="auto", evaluation={"validation": "v", "max_drop": {"accuracy": 0.0}}
    )
    assert [point.accepted for point in done.tried] == [False]
    assert any(note.startswith("Not reached") for note in done.notes)
    assert {layer.reason for layer in done.layers.values()} == {Reason.ALLOCATED_DENSE}
    assert done.path.read_bytes() == made["model"].read_bytes()
    assert metric(done, "cross_entropy") > 0


def test_convolutions_experts_and_halves_have_budgets(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = {
        "conv.weight": torch.randn(32, 16, 3, 3),
        "experts.w": torch.randn(4, 24, 40).half(),
        "zero.weight": torch.zeros(20, 20),
        "bad.weight": torch.full((20, 20), float("nan")),
        "lin.weight": (torch.randn(48, 4) @ torch.randn(4, 48)).bfloat16(),
        "head.weight": torch.randn(10, 48),
    }
    save_file(state, tmp_path / "m")
    (done,) = run(tmp_path, tmp_path / "m", rule="budget", budget={"bytes": 0.6},
                  protect_output=False)  # fmt: skip
    compressed = load_file(done.path)
    before, after = (sum(t.nbytes for t in tensors.values()) for tensors in (state, compressed))
    assert 0.5 * before < after <= 0.6 * before
    assert done.layers["zero.weight"].reason is Reason.ZERO
    assert done.layers["bad.weight"].reason is Reason.NON_FINITE
    assert done.layers["lin.weight"].relative_error == pytest.approx(0, abs=0.02)
    for layer in done.layers.values():
        if layer.action is Action.FACTORISED:
            assert layer.full_rank is not None
            assert all(
                compressed[key].dtype == state[layer.name].dtype for key in layer.factor_keys
            )


def test_nothing_to_calibrate_is_said(made: dict[str, Path], tmp_path: Path) -> None:
    dense = [{"match": "*", "keep_dense": True}]
    with pytest.raises(EvaluationMismatch, match="nothing to calibrate"):
        job(made, tmp_path, threshold=0.5, aware="inputs", layers=dense)


def test_what_cannot_be_calibrated(made: dict[str, Path], tmp_path: Path) -> None:
    data = load_file(made["validation"])
    save_file({k: v[:40].contiguous() for k, v in data.items()}, tmp_path / "few")
    few = {"validation": tmp_path / "few"}
    with pytest.raises(EvaluationMismatch, match="8 samples are too few"):
        job(made, tmp_path, files=few, rule="energy", threshold=0.9, aware="inputs")
    (folder := tmp_path / "x").mkdir()
    save_file({"inputs": data["inputs"][:, :7].contiguous()}, tmp_path / "narrow")
    with pytest.raises(EvaluationMismatch, match="7 values a sample in 'inputs'"):
        job(
            made, folder, files={"calibration": tmp_path / "narrow"}, rule="energy", threshold=0.9,
            aware="inputs", evaluation={"validation": "v", "calibration": "c"},
        )  # fmt: skip


def test_a_softmax_needs_two_classes(made: dict[str, Path], tmp_path: Path) -> None:
    save_file({k: v.detach() for k, v in mlp((24, 40, 32, 1)).state_dict().items()}, tmp_path / "m")
    data = load_file(made["validation"])
    save_file({**data, "targets": data["targets"].float()}, tmp_path / "v")
    with pytest.raises(InvalidRequest, match=r"two classes .* \['samples', 1\]") as error:
        job(
            {"model": tmp_path / "m", "validation": tmp_path / "v"}, tmp_path, rule="energy",
            threshold=0.9, aware="two_sided", sensitivity="softmax",
            evaluation={"validation": "v", "task": "regression"},
        )  # fmt: skip
    assert error.value.errors[0].pointer == "/sensitivity"


def test_statistics_of_another_kind(made: dict[str, Path], tmp_path: Path) -> None:
    fields = {"rule": "energy", "threshold": 0.9, "aware": "two_sided", "statistics": "s"}
    model, rows = mlp(WIDTHS), load_file(made["validation"])["inputs"]
    inputs_only = rankpress.collect_statistics(model, [rows], tmp_path / "one")
    with pytest.raises(InvalidRequest, match="no sensitivities"):
        job(made, tmp_path, files={"statistics": inputs_only}, **fields)
    with pytest.raises(InvalidRequest, match="no statistics file"):
        job(made, tmp_path, files={"statistics": made["model"]}, **fields)
    other = nn.Sequential(nn.Linear(WIDTHS[0], 39), nn.ReLU(), nn.Linear(39, 5))
    wrong = rankpress.collect_statistics(other, [rows], tmp_path / "two", two_sided=True)
    with pytest.raises(InvalidRequest, match=r"0.weight/sensitivity has shape \[39, 39\]"):
        job(made, tmp_path, files={"statistics": wrong}, **fields)
    strange = rankpress.collect_statistics(nn.Linear(WIDTHS[0], 5), [rows], tmp_path / "three")
    fields["aware"] = "inputs"
    with pytest.raises(InvalidRequest, match=r"of 'weight'; the model's weights are '0\.weight'"):
        job(made, tmp_path, files={"statistics": strange}, **fields)
