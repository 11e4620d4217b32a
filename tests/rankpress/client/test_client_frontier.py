"""`frontier`: one job, several results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from rankpress.errors import InvalidRequest
from rankpress.names import Rule
from rankpress.schemas.report import FrontierPoint, RankReport
from rankpress.schemas.request import Budget
from tests.rankpress.client.fakeservice import (
    Reply,
    Seen,
    make_report,
    running,
    serves,
    whole_service,
)

WEIGHTS = (b"the smallest", b"the larger one")


def report(rule: Rule, given: tuple[Any, ...]) -> RankReport:
    points = tuple(
        FrontierPoint(
            index=i,
            rule=rule,
            **({"budget": value} if rule is Rule.BUDGET else {"threshold": value}),
            ranks={"0.weight": i + 1},
            parameters_after=10 * (i + 1),
            bytes_after=len(WEIGHTS[i]),
            output_sha256="00",
        )
        for i, value in enumerate(given)
    )
    return make_report(WEIGHTS[0], rule=rule, frontier=points)


def service_of(found: RankReport) -> Any:
    """The whole service, with a file for each result."""
    rest = whole_service(WEIGHTS[0], found)

    def handle(reply: Reply, seen: Seen) -> None:
        path, _, query = seen.path.partition("?")
        if path.endswith("/weights"):
            serves(WEIGHTS[int(query.removeprefix("result=") or 0)])(reply, seen)
        else:
            rest(reply, seen)

    return handle


def submitted(service: Any) -> dict[str, Any]:
    (body,) = (s.body for s in service.seen if (s.method, s.path) == ("POST", "/v1/jobs"))
    found: dict[str, Any] = json.loads(body)
    return found


def test_thresholds_give_a_point_and_a_file_each(drive: Any, tmp_path: Path) -> None:
    model, folder = tmp_path / "net.pt", tmp_path / "new" / "frontier"
    model.write_bytes(b"model")
    with running(service_of(report(Rule.ENTROPY, (0.5, 0.9)))) as service:
        call = lambda c: c.frontier(  # noqa: E731
            model, thresholds=[0.5, 0.9], folder=folder, protect_output=False
        )
        done = drive(service.url, call)
    assert submitted(service) == {
        "model": "up_1",
        "threshold": [0.5, 0.9],
        "protect_output": False,
    }
    assert [(p.index, p.threshold, p.ranks) for p in done.points] == [
        (0, 0.5, {"0.weight": 1}),
        (1, 0.9, {"0.weight": 2}),
    ]
    assert [p.name for p in done.paths] == [
        "net-threshold-0.5.safetensors",
        "net-threshold-0.9.safetensors",
    ]
    assert tuple(p.read_bytes() for p in done.paths) == WEIGHTS


def test_a_module_is_left_as_it_is_and_nothing_is_downloaded(drive: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    budgets = (Budget(parameters=0.3), Budget(bytes=0.5))
    with running(service_of(report(Rule.BUDGET, budgets))) as service:
        done = drive(service.url, lambda c: c.frontier(model, budgets=[0.3, {"bytes": 0.5}]))
    assert submitted(service)["budget"] == [{"parameters": 0.3}, {"bytes": 0.5}]
    assert submitted(service)["rule"] == "budget"
    assert done.paths == ()
    assert [p.budget for p in done.points] == list(budgets)
    assert isinstance(model[0], nn.Linear)
    assert not any(s.path.endswith("/weights") for s in service.seen)


def test_one_threshold_is_one_point(drive: Any, tmp_path: Path) -> None:
    model = tmp_path / "net.safetensors"
    model.write_bytes(b"model")
    with running(whole_service(WEIGHTS[0])) as service:
        done = drive(service.url, lambda c: c.frontier(model, thresholds=[0.9]))
    (point,) = done.points
    assert (point.threshold, point.parameters_after) == (0.9, 56)


def test_wrong_lists_are_refused_before_anything_is_sent(drive: Any, tmp_path: Path) -> None:
    model = tmp_path / "net.safetensors"
    model.write_bytes(b"model")
    with running(whole_service(WEIGHTS[0])) as service:
        with pytest.raises(InvalidRequest, match="threshold"):
            drive(service.url, lambda c: c.frontier(model, thresholds=[0.5, 1.5]))
        for wrong in ({}, {"thresholds": [0.5], "budgets": [0.5]}):
            with pytest.raises(TypeError, match="thresholds or budgets"):
                drive(service.url, lambda c, wrong=wrong: c.frontier(model, **wrong))
    assert service.seen == []


def test_report_and_download_of_another_result(drive: Any, tmp_path: Path) -> None:
    with running(service_of(report(Rule.ENTROPY, (0.5, 0.9)))) as service:
        drive(service.url, lambda c: c.report("j1", result=1))
        path = drive(service.url, lambda c: c.download("j1", tmp_path / "x", result=1))
    assert path.read_bytes() == WEIGHTS[1]
    assert [s.path for s in service.seen] == [
        "/v1/jobs/j1/report?result=1",
        "/v1/jobs/j1/weights?result=1",
    ]
