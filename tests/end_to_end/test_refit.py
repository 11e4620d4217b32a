"""A refit through the service: what it is for, and that it goes on where a worker died."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rankpress import Client
from rankpress.loading import load_compressed
from rankpress.loading.verifying import verify
from rankpress.names import Action, Aware, Rule, State
from rankpress.schemas.report import RankReport
from rankpress.schemas.request import Budget, Evaluation, JobRequest
from rankpress.service.engine import Engine
from tests.end_to_end.processes import Service, wait_until
from tests.end_to_end.test_main_job import mlp

SHARES = (0.03, 0.04)


def submit(client: Client, model: Path, validation: Path, *, refit: bool = True) -> str:
    request = JobRequest(
        model=client.upload(model).id,
        rule=Rule.BUDGET,
        budget=tuple(Budget(parameters=share) for share in SHARES),
        aware=Aware.TWO_SIDED,
        refit=refit,
        evaluation=Evaluation(validation=client.upload(validation).id, latency=False),
    )
    return client.submit(request).id


def accuracy(report: RankReport) -> float:
    assert report.evaluation is not None
    (found,) = [m.compressed for m in report.evaluation.metrics if m.name == "accuracy"]
    assert found is not None
    return found


@pytest.fixture(scope="module")
def undisturbed(
    sqlite_service: Service, example_model: Path, example_validation: Path
) -> tuple[RankReport, ...]:
    with Client(sqlite_service.url) as client:
        job = client.wait(submit(client, example_model, example_validation))
        return tuple(client.report(job.id, result=i) for i in range(len(SHARES)))


def test_it_pays_at_a_few_per_cent(
    sqlite_service: Service,
    undisturbed: tuple[RankReport, ...],
    example_model: Path,
    example_validation: Path,
    tmp_path: Path,
) -> None:
    with Client(sqlite_service.url) as client:
        plain = client.wait(submit(client, example_model, example_validation, refit=False))
        for i, report in enumerate(undisturbed):
            before = client.report(plain.id, result=i)
            assert report.parameters_after == before.parameters_after
            assert accuracy(report) > accuracy(before) + 0.02
            assert report.seconds["refit"] > 0
            assert report.notes[-1].startswith("Refitted on the calibration samples: 1 of 2 ")
            assert all(layer.refitted is None for layer in before.layers)
            tried = {x.name: x.refitted for x in report.layers if x.action is Action.FACTORISED}
            assert tried == {"hidden1.weight": False, "hidden2.weight": True}
        out = client.download(undisturbed[1].job_id, tmp_path / "out.safetensors", result=1)
    assert verify(out, example_model, [example_model], undisturbed[1]).ok
    # What was scored is what a caller loads.
    data = load_file(example_validation)
    scored = [i for i in range(len(data["targets"])) if i % 5]
    model = load_compressed(mlp(load_file(example_model)), out)
    with torch.inference_mode():
        answers = model(data["inputs"][scored].flatten(1).float()).argmax(dim=1)
    found = (answers == data["targets"][scored]).float().mean()
    assert accuracy(undisturbed[1]) == pytest.approx(float(found), abs=2e-3)


def after(service: Service, job_id: str, step: str) -> Callable[[], bool]:
    def check() -> bool:
        engine = Engine(service.settings)
        try:
            return step in engine.steps("default", job_id)
        finally:
            engine.close()

    return check


@pytest.mark.parametrize("step", ["allocate", "refit"])
def test_a_killed_worker_goes_on(
    step: str,
    service: Service,
    undisturbed: tuple[RankReport, ...],
    example_model: Path,
    example_validation: Path,
) -> None:
    """In the refit, or when it lies in the store alone."""
    with Client(service.url) as client:
        job_id = submit(client, example_model, example_validation)
        wait_until(after(service, job_id, step), what=f"the end of {step}", seconds=120)
        service.kill_worker()
        service.start_worker()
        assert client.wait(job_id, timeout=300).state is State.SUCCEEDED
        for i, report in enumerate(undisturbed):
            assert client.report(job_id, result=i).output_sha256 == report.output_sha256
    engine = Engine(service.settings)
    names = engine.steps("default", job_id)
    engine.close()
    assert [n for n in names if n != "factorise"] == [
        "read", "calibrate", "allocate", *["refit", "write", "evaluate"] * len(SHARES), "report",
    ]  # fmt: skip
    assert not [f for f in service.stored() if "/parts/" in f]


def test_cancel(service: Service, example_model: Path, example_validation: Path) -> None:
    with Client(service.url) as client:
        job_id = submit(client, example_model, example_validation)
        wait_until(after(service, job_id, "allocate"), what="the refit", seconds=120)
        client.cancel(job_id)
        assert client.get(job_id).state is State.CANCELED
        wait_until(lambda: not [f for f in service.stored() if job_id in f], what="the clean-up")
