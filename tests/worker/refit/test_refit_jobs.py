"""Whole jobs with a refit, stage after stage: against numpy, and what each layer's report says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankpress.loading.verifying import verify
from rankpress.names import Action
from rankpress.schemas.request import JobRequest
from rankpress.schemas.statistics import SENSITIVITY
from tests.worker.networks import mlp
from tests.worker.pipelinekit import Done, run
from worker.refit.fitting import RIDGE

SAMPLES = 300
WIDTHS = (20, 32, 24, 16, 5)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks, and samples that lie near a subspace."""
    folder = tmp_path_factory.mktemp("refit")
    torch.manual_seed(0)
    inputs = torch.randn(SAMPLES, 6) @ torch.randn(6, WIDTHS[0]) + 0.1 * torch.randn(SAMPLES, 20)
    models = {"model": mlp(WIDTHS), "bare": mlp(WIDTHS, bias=False), "chain": mlp((20, 24, 16))}
    for name, model in models.items():
        dtype = torch.float64 if name == "chain" else torch.float32
        save_file({k: v.detach().to(dtype) for k, v in model.state_dict().items()}, folder / name)
    targets = torch.randint(5, (SAMPLES,))
    save_file({"inputs": inputs + 0.5, "targets": targets}, folder / "validation")
    return {name: folder / name for name in (*models, "validation")}


def job(made: dict[str, Path], folder: Path, model: str = "model", **fields: Any) -> list[Done]:
    folder.mkdir(exist_ok=True)
    evaluation = {"validation": "v", "latency": False, "batch_size": 64}
    files = {"validation": made["validation"]}
    given = {"rule": "ratio", "threshold": 0.3, "aware": "inputs", "evaluation": evaluation}
    return run(folder, made[model], files=files, **(given | fields))


def errors(done: Done) -> dict[str, tuple[float, float]]:
    """By layer that a refit was tried on: before and after."""
    return {
        layer.name: (layer.calibration_error_before, layer.calibration_error)
        for layer in done.layers.values()
        if layer.refitted is not None
        and layer.calibration_error is not None
        and layer.calibration_error_before is not None
    }


@pytest.mark.parametrize("aware", ["inputs", "two_sided"])
def test_a_chain_of_two_against_numpy(aware: str, made: dict[str, Path], tmp_path: Path) -> None:
    """All of it again in float64 from the job's own factors: which layer sees what, the metric, the
    ridge, the step, the bias."""
    fields = {"aware": aware, "protect_output": False, "threshold": 0.4}
    (plain,) = job(made, tmp_path / "plain", "chain", **fields)
    (done,) = job(made, tmp_path / "refit", "chain", **fields, refit=True)
    W = {k: v.numpy() for k, v in load_file(made["chain"]).items()}
    old = {k: v.numpy() for k, v in load_file(plain.path).items()}
    new = {k: v.numpy() for k, v in load_file(done.path).items()}
    x = load_file(made["validation"])["inputs"][::5].double().numpy()

    # The first layer's inputs are what they were: it is kept, bit for bit.
    for key in ("0.0.weight", "0.1.weight", "0.1.bias", "2.1.weight"):
        assert np.array_equal(old[key], new[key]), key
    assert done.layers["0.weight"].refitted is False
    assert done.layers["2.weight"].refitted is True

    dense = relu(x @ W["0.weight"].T + W["0.bias"]) @ W["2.weight"].T + W["2.bias"]
    given = relu(x @ (old["0.1.weight"] @ old["0.0.weight"]).T + old["0.1.bias"])
    left, right, bias = old["2.1.weight"], old["2.0.weight"], old["2.1.bias"]
    G = np.eye(16)
    if aware == "two_sided":
        J = load_file(tmp_path / "refit" / "made-statistics")[f"2.weight/{SENSITIVITY}"].numpy()
        G = J + 1e-3 * np.diag(J).mean() * np.eye(16)
    r = dense - given @ (left @ right).T - bias
    xc, rc = given - given.mean(0), r - r.mean(0)
    C = xc.T @ xc / len(x)
    C += RIDGE * np.diag(C).mean() * np.eye(24)
    step = np.linalg.solve(left.T @ G @ left, left.T @ G @ (rc.T @ xc / len(x))) @ np.linalg.inv(C)
    np.testing.assert_allclose(new["2.0.weight"], right + step, rtol=1e-6, atol=1e-8)
    shifted = bias + r.mean(0) - left @ step @ given.mean(0)
    np.testing.assert_allclose(new["2.1.bias"], shifted, rtol=1e-6, atol=1e-8)

    # The errors that the report states, from the files.
    after = dense - given @ (left @ new["2.0.weight"]).T - new["2.1.bias"]
    found = [np.einsum("bi,ij,bj->", e, G, e) / len(x) for e in (r, after)]
    told_before, told = errors(done)["2.weight"]
    assert (told / told_before) ** 2 == pytest.approx(found[1] / found[0], rel=1e-6)


@pytest.mark.parametrize("aware", ["inputs", "two_sided"])
@pytest.mark.parametrize("model", ["model", "bare"])
@pytest.mark.parametrize("layout", ["factors", "dense"])
def test_no_layers_error_grows(
    aware: str, model: str, layout: str, made: dict[str, Path], tmp_path: Path
) -> None:
    found = job(
        made, tmp_path, model, aware=aware, refit=True, output={"layout": layout},
        threshold=[0.1, 0.4],
    )  # fmt: skip
    for done in found:
        tried = errors(done)
        assert set(tried) == {"0.weight", "2.weight", "4.weight"}
        for name, (before, after) in tried.items():
            better = done.layers[name].refitted
            assert after < before if better else after == before
        assert done.layers["4.weight"].refitted is True
        assert done.notes[-1].startswith("Refitted on the calibration samples: 2 of 3 ")


def test_what_was_scored_is_what_the_refit_left(made: dict[str, Path], tmp_path: Path) -> None:
    """The last layer's error, from the file that is written, on the samples that calibrated."""
    (done,) = job(made, tmp_path, refit=True)
    (plain,) = job(made, tmp_path / "plain")
    x = load_file(made["validation"])["inputs"][::5]
    state, small, other = (load_file(p) for p in (made["model"], done.path, plain.path))

    def up_to(state: dict[str, torch.Tensor]) -> torch.Tensor:
        """The answers of the last factorised layer."""
        h = x.double()
        for i in (0, 2, 4):
            wide = f"{i}.weight" in state
            keys = (f"{i}.weight",) if wide else (f"{i}.0.weight", f"{i}.1.weight")
            for key in keys:
                h = h @ state[key].double().T
            h = h + state[f"{i}.bias" if wide else f"{i}.1.bias"].double()
            h = h.relu() if i < 4 else h
        return h

    lost = [float((up_to(state) - up_to(s)).square().sum(1).mean()) for s in (small, other)]
    before, after = errors(done)["4.weight"]
    assert lost[0] < lost[1]
    # `before` is with the earlier layers refitted already; the scale is the same.
    whole = (float(np.sqrt(lost[0])) / after) ** 2
    assert after**2 * whole == pytest.approx(lost[0], rel=1e-5)
    assert before > after
    error = torch.linalg.norm(state["4.weight"] - small["4.1.weight"] @ small["4.0.weight"])
    stated = done.layers["4.weight"].relative_error
    assert stated == pytest.approx(float(error / torch.linalg.norm(state["4.weight"])), rel=1e-4)


def test_each_result_is_that_of_a_job_of_its_own(made: dict[str, Path], tmp_path: Path) -> None:
    budgets = [{"parameters": share} for share in (0.4, 0.6)]
    fields = {"rule": "budget", "threshold": None, "aware": "two_sided", "refit": True}
    found = job(made, tmp_path, budget=budgets, **fields)
    for i, budget in enumerate(budgets):
        (alone,) = job(made, tmp_path / str(i), budget=budget, **fields)
        assert alone.path.read_bytes() == found[i].path.read_bytes()
        assert any(layer.refitted for layer in alone.layers.values())


def test_the_certificate_of_a_refitted_file(made: dict[str, Path], tmp_path: Path) -> None:
    """Its factors may be far from the weight: the file says so itself."""
    (done,) = job(made, tmp_path, threshold=0.05, refit=True)
    out = tmp_path / "out.safetensors"
    out.write_bytes(done.path.read_bytes())
    model = tmp_path / "model.safetensors"
    model.write_bytes(made["model"].read_bytes())
    assert verify(out, model, [model]).ok


def test_nothing_is_factorised(made: dict[str, Path], tmp_path: Path) -> None:
    (done,) = job(made, tmp_path, refit=True, rule="energy", threshold=1.0)
    assert all(layer.action is not Action.FACTORISED for layer in done.layers.values())
    assert done.path.read_bytes() == made["model"].read_bytes()
    assert done.notes[-1].startswith("Refitted on the calibration samples: 0 of 0 ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"aware": "none"}, "refit: goes with `aware`"),
        ({"statistics": "s"}, "refit: needs samples on the service"),
        (
            {"rule": "auto", "threshold": None, "max_drop": {"accuracy": 0.1}},
            "refit: not with the rule auto",
        ),
        ({"refit": "yes"}, "valid boolean"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    fields = dict(fields)
    evaluation = {"validation": "v", "max_drop": fields.pop("max_drop", None)}
    given = {"model": "m", "rule": "energy", "threshold": 0.9, "aware": "inputs", "refit": True}
    with pytest.raises(ValueError, match=message):
        JobRequest.model_validate(given | {"evaluation": evaluation} | fields)
