"""Jobs with several results, budgets and samples that calibrate, through the service."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file, save_file

import rankpress
from rankpress import Client
from rankpress.errors import InvalidRequest
from rankpress.loading import load_compressed
from rankpress.names import ArchitectureKind, Aware, Rule, Sensitivity, State
from rankpress.schemas.architecture import Architecture
from rankpress.schemas.report import RankReport
from rankpress.schemas.request import Budget, Evaluation, JobRequest
from tests.end_to_end.processes import Service
from tests.end_to_end.test_main_job import mlp


def test_a_frontier_of_budgets(
    sqlite_service: Service, example_model: Path, example_validation: Path
) -> None:
    url = sqlite_service.url
    shares = (0.5, 0.1, 0.05)
    with Client(url) as client, httpx.Client(base_url=url) as http:
        model, validation = client.upload(example_model), client.upload(example_validation)
        job = client.submit(
            JobRequest(
                model=model.id,
                rule=Rule.BUDGET,
                budget=tuple(Budget(parameters=share) for share in shares),
                aware=Aware.TWO_SIDED,
                evaluation=Evaluation(validation=validation.id),
            )
        )
        assert client.wait(job.id).state is State.SUCCEEDED
        base = f"/v1/jobs/{job.id}"
        reports = [
            RankReport.model_validate_json(http.get(f"{base}/report?result={i}").content)
            for i in range(3)
        ]
        files = [http.get(f"{base}/weights?result={i}") for i in range(3)]
        table = list(csv.DictReader(io.StringIO(http.get(f"{base}/frontier").text)))
        assert http.get(f"{base}/report").content == http.get(f"{base}/report?result=0").content
        for path in ("report", "weights"):
            missing = http.get(f"{base}/{path}?result=3")
            assert missing.status_code == 404
            assert missing.headers["content-type"] == "application/problem+json"
            assert http.get(f"{base}/{path}?result=-1").status_code == 422
    for i, (share, report, file) in enumerate(zip(shares, reports, files, strict=True)):
        assert report.result == i
        assert report.budget == Budget(parameters=share)
        assert file.headers["etag"] == f'"{report.output_sha256}"'
        assert len(file.content) == report.bytes_after
        assert report.parameters_after <= share * report.parameters_before
        assert report.frontier == reports[0].frontier
        assert report.frontier[i].output_sha256 == report.output_sha256
        assert table[i]["output_sha256"] == report.output_sha256
        assert report.evaluation is not None
        assert report.evaluation.samples == 1600
        assert report.evaluation.artifact_sha256 == report.output_sha256
    accuracies = [float(row["accuracy"]) for row in table]
    assert accuracies[0] > accuracies[2]
    assert accuracies[1] > float(table[1]["accuracy_dense"]) - 0.03


def test_the_callers_statistics(
    sqlite_service: Service, example_model: Path, example_validation: Path, tmp_path: Path
) -> None:
    inputs = load_file(example_validation)["inputs"][:500].flatten(1).float()
    statistics = rankpress.collect_statistics(
        mlp(load_file(example_model)),
        inputs.split(100),
        tmp_path / "statistics",
        two_sided=True,
        sensitivity="softmax",
    )
    with Client(sqlite_service.url) as client:
        uploads = [client.upload(path).id for path in (example_model, statistics)]
        request = JobRequest(
            model=uploads[0],
            rule=Rule.BUDGET,
            budget=Budget(parameters=0.1),
            aware=Aware.TWO_SIDED,
            statistics=uploads[1],
        )
        job = client.wait(client.submit(request).id)
        assert job.state is State.SUCCEEDED
        report = client.report(job.id)
        out = client.download(job.id, tmp_path / "out.safetensors")
    assert report.parameters_after <= 0.1 * report.parameters_before
    assert report.sensitivity is Sensitivity.SOFTMAX
    data = load_file(example_validation)
    held_out = data["inputs"][500:].flatten(1).float()
    model = load_compressed(mlp(load_file(example_model)), out)
    accuracy = (model(held_out).argmax(dim=1) == data["targets"][500:]).float().mean()
    assert float(accuracy) > 0.88


def test_a_template_is_looked_into(
    sqlite_service: Service, example_model: Path, example_validation: Path, tmp_path: Path
) -> None:
    data = load_file(example_validation)
    data["inputs"] = data["inputs"].flatten(1).float()
    save_file(data, tmp_path / "validation")
    model = mlp(load_file(example_model))
    rankpress.export_template(model, data["inputs"][:2], tmp_path / "template")
    with Client(sqlite_service.url) as client:
        uploads = [
            client.upload(path).id
            for path in (example_model, tmp_path / "validation", tmp_path / "template")
        ]
        request = JobRequest(
            model=uploads[0],
            rule=Rule.BUDGET,
            budget=Budget(parameters=0.15),
            aware=Aware.TWO_SIDED,
            sensitivity=Sensitivity.SOFTMAX,
            evaluation=Evaluation(
                validation=uploads[1],
                architecture=Architecture(kind=ArchitectureKind.TEMPLATE, template=uploads[2]),
            ),
        )
        job = client.wait(client.submit(request).id)
        assert job.state is State.SUCCEEDED
        report = client.report(job.id)
    assert report.sensitivity is Sensitivity.SOFTMAX
    assert any("forward differences" in note for note in report.notes)
    assert report.evaluation is not None
    assert report.evaluation.samples == 1600
    (accuracy,) = [m for m in report.evaluation.metrics if m.name == "accuracy"]
    assert accuracy.compressed is not None
    assert accuracy.compressed > 0.89


def test_auto(sqlite_service: Service, example_model: Path, example_validation: Path) -> None:
    with Client(sqlite_service.url) as client:
        model, validation = client.upload(example_model), client.upload(example_validation)
        evaluation = Evaluation(validation=validation.id, max_drop={"accuracy": 0.03})
        request = JobRequest(
            model=model.id, rule=Rule.AUTO, aware=Aware.TWO_SIDED, evaluation=evaluation
        )
        job = client.wait(client.submit(request).id)
        assert job.state is State.SUCCEEDED
        report = client.report(job.id)
    assert not report.not_reached
    accepted = [point for point in report.path if point.accepted]
    assert accepted[-1].parameters_after == report.parameters_after
    assert report.parameters_after < 0.3 * report.parameters_before
    assert report.evaluation is not None
    assert report.evaluation.samples == 800


def test_a_budget_that_no_ranks_keep_to(sqlite_service: Service, example_model: Path) -> None:
    with Client(sqlite_service.url) as client:
        model = client.upload(example_model)
        request = JobRequest(
            model=model.id, rule=Rule.BUDGET, budget=(Budget(bytes=0.5), Budget(bytes=0.001))
        )
        with pytest.raises(InvalidRequest, match=r"send 0\.0") as found:
            client.wait(client.submit(request).id)
    assert found.value.errors[0].pointer == "/budget/1/bytes"
