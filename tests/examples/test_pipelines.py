"""The examples in examples/pipelines, run as their users would, against the running service.

Those of an engine run in an environment that `make pipelines` made: the engines' requirements do
not fit each other's, but for MLflow's and transformers', which share a torch. RANKPRESS_PIPELINES
is another folder of such environments.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "pipelines"
EXAMPLE = ROOT / "examples" / "fashion_mnist"
MODEL, VALIDATION = EXAMPLE / "model.safetensors", EXAMPLE / "validation.safetensors"
ENVIRONMENTS = Path(os.environ.get("RANKPRESS_PIPELINES") or ROOT / ".venv-pipelines")
REQUIRED = "RANKPRESS_TEST_PACKAGES_REQUIRED"  # set in CI, which runs `make pipelines`
SHARED = {"transformers": "mlflow"}
GUARD_SECONDS = 420  # against hanging for ever

pytestmark = pytest.mark.slow
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def engine(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not python_of(name).exists() and REQUIRED not in os.environ,
        reason=f"needs the environment of {name}: make pipelines; {REQUIRED} makes this a failure",
    )


def python_of(name: str) -> Path:
    return ENVIRONMENTS / SHARED.get(name, name) / "bin" / "python"


def run(
    *command: str | Path, cwd: Path, url: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RANKPRESS_", "PYTHON"))}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**clean, "RANKPRESS_URL": url, **variables},
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )


def succeeds(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_curl
def test_shell_script_brings_report_and_weights(tmp_path: Path, service_url: str) -> None:
    script = FOLDER / "compress.sh"
    done = run(script, MODEL, "0.5", "small.safetensors", cwd=tmp_path, url=service_url)
    assert "hidden1.weight" in succeeds(done)
    assert "hidden1.0.weight" in load_file(tmp_path / "small.safetensors")


@needs_curl
def test_shell_script_says_what_was_refused(tmp_path: Path, service_url: str) -> None:
    script = FOLDER / "compress.sh"
    done = run(script, MODEL, "1.5", "small.safetensors", cwd=tmp_path, url=service_url)
    assert done.returncode == 1
    assert "/threshold" in done.stderr
    assert not (tmp_path / "small.safetensors").exists()


@needs_curl
def test_shell_script_says_why_a_job_failed(tmp_path: Path, service_url: str) -> None:
    wrong = tmp_path / "wrong.safetensors"
    shutil.copy(MODEL, wrong)  # a model is no validation data
    script = FOLDER / "compress.sh"
    done = run(script, MODEL, "0.5", "small.safetensors", wrong, cwd=tmp_path, url=service_url)
    assert done.returncode == 1
    assert "evaluation-mismatch" in done.stderr
    assert not (tmp_path / "small.safetensors").exists()


def test_workflow_runs_the_gate_as_it_says(tmp_path: Path, service_url: str) -> None:
    workflow = yaml.safe_load((FOLDER / "github-actions.yml").read_text())
    (job,) = workflow["jobs"].values()
    (step,) = (s for s in job["steps"] if "accuracy_gate.py" in s.get("run", ""))
    assert set(step["env"]) == {"RANKPRESS_URL", "RANKPRESS_API_KEY"}
    (tmp_path / "ci").mkdir()
    shutil.copy(FOLDER / "accuracy_gate.py", tmp_path / "ci")
    (tmp_path / "model").symlink_to(EXAMPLE)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    done = run(
        *("bash", "-e", "-c", step["run"]),
        cwd=tmp_path,
        url=service_url,
        PATH=path,
        GITHUB_STEP_SUMMARY=str(summary),
        PYTHONPATH=str(ROOT),
    )
    assert "Gate: passed" in succeeds(done)
    assert summary.read_text().startswith("before\n### Rankpress")
    assert (tmp_path / "compressed.safetensors").is_file()


def gate(*arguments: str | Path, cwd: Path, url: str) -> subprocess.CompletedProcess[str]:
    script = FOLDER / "accuracy_gate.py"
    return run(sys.executable, script, *arguments, cwd=cwd, url=url, PYTHONPATH=str(ROOT))


def test_gate_stops_what_is_worse_or_too_large(tmp_path: Path, service_url: str) -> None:
    files = (MODEL, VALIDATION, "--output", "small.safetensors")
    more = ("--threshold", "0.3", "--max-drop", "0.01", "--max-share", "0.05")
    done = gate(*files, *more, cwd=tmp_path, url=service_url)
    assert done.returncode == 1, done.stderr
    assert "accuracy: worse, allowed is a drop of 0.01" in done.stdout
    assert "allowed is 5.0%" in done.stdout


def test_gate_that_is_refused_is_no_verdict(tmp_path: Path, service_url: str) -> None:
    done = gate(MODEL, VALIDATION, "--threshold", "2", cwd=tmp_path, url=service_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "threshold" in done.stderr


SCORE = """
import sys, mlflow, numpy as np
from safetensors.numpy import load_file
data = load_file(sys.argv[2])
guesses = mlflow.pyfunc.load_model(sys.argv[1]).predict(data["inputs"].astype(np.float32))
print((np.asarray(guesses).argmax(1) == data["targets"]).mean())
run = mlflow.search_runs(experiment_names=["rankpress"], output_format="list")[0]
print(run.data.metrics["accuracy_compressed"], run.data.params["threshold"])
print(sorted(f.path for f in mlflow.artifacts.list_artifacts(run_id=run.info.run_id)))
"""


@engine("mlflow")
def test_mlflow_logs_and_loads(tmp_path: Path, service_url: str) -> None:
    python = python_of("mlflow")
    place = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    script = (FOLDER / "mlflow_log.py", MODEL, VALIDATION, "--threshold", "0.5")
    uri = succeeds(run(python, *script, cwd=tmp_path, url=service_url, **place)).split()[-1]
    score = run(python, "-c", SCORE, uri, VALIDATION, cwd=tmp_path, url="", **place)
    accuracy, logged, artifacts = succeeds(score).splitlines()[-3:]
    assert logged == f"{float(accuracy)} 0.5"
    assert float(accuracy) > 0.88
    assert artifacts == "['report.html', 'report.json']"


@engine("prefect")
def test_prefect_takes_the_smallest_that_is_good_enough(tmp_path: Path, service_url: str) -> None:
    place = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",
        "DO_NOT_TRACK": "1",
    }
    script = (FOLDER / "prefect_flow.py", MODEL, VALIDATION, "small.safetensors")
    succeeds(run(python_of("prefect"), *script, cwd=tmp_path, url=service_url, **place))
    small = load_file(tmp_path / "small.safetensors")
    # 0.5 drops up to 2.4 points, 0.7 surely stays within two.
    assert 0.25 < sum(t.numel() for t in small.values()) / 535_818 < 0.45


@engine("kubeflow")
def test_kubeflow_compiles_and_runs_locally(tmp_path: Path, service_url: str) -> None:
    python, script = python_of("kubeflow"), FOLDER / "kubeflow_pipeline.py"
    succeeds(run(python, script, cwd=tmp_path, url=service_url))
    compiled = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    assert set(compiled["root"]["dag"]["tasks"]) == {"compress", "gate"}
    local = (script, "--local", MODEL, VALIDATION)
    printed = succeeds(run(python, *local, cwd=tmp_path, url=service_url))
    assert printed.splitlines()[-1].startswith("accuracy 0.9")
    (weights,) = (tmp_path / "pipeline-outputs").glob("*/compress/weights")
    assert "hidden1.0.weight" in load_file(weights)
    (metrics,) = (tmp_path / "pipeline-outputs").glob("*/compress/executor_output.json")
    found = json.loads(metrics.read_text())["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert found["share"] == pytest.approx(0.626, abs=0.001)


@engine("transformers")
def test_transformers_goes_there_and_back(tmp_path: Path, service_url: str) -> None:
    script = FOLDER / "transformers_round_trip.py"
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = run(
        *(python_of("transformers"), script, "bert"), cwd=tmp_path, url=service_url, **offline
    )
    before, after = (int(n.replace(",", "")) for n in succeeds(done).split()[0:3:2])
    assert after < 0.7 * before


def test_every_requirement_is_an_exact_release_but_torch() -> None:
    for file in (FOLDER / "requirements").glob("*.txt"):
        for line in file.read_text().splitlines():
            assert "==" in line or line.startswith("torch"), f"{file.name}: {line}"


def test_documentation_lists_every_example() -> None:
    page = (ROOT / "docs" / "pipelines.md").read_text()
    names = [p.name for p in FOLDER.iterdir() if p.suffix in (".py", ".sh", ".yml")]
    assert len(names) >= 7
    assert [n for n in names if f"`{n}`" not in page] == []
