"""A line for every case of the public bug reports about checkpoints, factorisation and what comes
after it, with the exact outcome, through the running service. The tables are in `cases/`.

Elsewhere, since no small file shows them: GPU memory that runs out in one layer (test_spectrum.py,
TestLadder), an evaluation and a crash (test_cases_after.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rankpress.errors import TYPE_PREFIX
from rankpress.schemas.report import RankReport
from tests.end_to_end.cases.after import AFTER
from tests.end_to_end.cases.dtypes import DTYPE_CASES
from tests.end_to_end.cases.factorised import FACTORISED_CASES
from tests.end_to_end.cases.refused import REFUSED
from tests.end_to_end.cases.taken import TAKEN
from tests.end_to_end.cases.tools import REQUEST, Caller, Refused, Result, Taken
from tests.end_to_end.processes import Service


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refused(case: Refused, caller: Caller, sqlite_service: Service) -> None:
    before = sqlite_service.stored()
    *others, (name, data) = case.files().items()
    ids = [caller.upload(n, d).json()["id"] for n, d in others]
    answer = caller.upload(name, data, **case.headers)
    if case.at == "upload":
        problem = answer.json()
        assert answer.status_code == 422, problem
        assert answer.headers["content-type"] == "application/problem+json"
    else:
        ids.append(answer.json()["id"])
        model = ids[0] if len(ids) == 1 else ids
        answer = caller.submit({**REQUEST, **case.request, "model": model})
        if case.at == "submit":
            problem = answer.json()
            assert answer.status_code == 422, problem
        else:
            assert answer.status_code == 202, answer.json()
            job = caller.ended(answer.json()["id"])
            assert job["state"] == "failed"
            problem = job["error"]
            assert caller.http.get(f"/v1/jobs/{job['id']}/weights").status_code == 409
    assert problem["type"] == TYPE_PREFIX + case.slug
    assert problem["status"] == 422
    for words in case.says:
        assert words in problem["detail"], problem
    pointers = [item["pointer"] for item in problem.get("errors", [])]
    assert pointers == ([case.pointer] if case.pointer else [])
    assert str(sqlite_service.settings.data_dir) not in answer.text
    for upload in ids:
        assert caller.http.delete(f"/v1/uploads/{upload}").status_code in (204, 409)
    if case.at == "upload":
        assert sqlite_service.stored() == before


def compressed(caller: Caller, case: Taken, folder: Path) -> Result:
    sent = case.files()
    uploads: list[dict[str, Any]] = [caller.upload(n, d).json() for n, d in sent.items()]
    ids = [upload["id"] for upload in uploads]
    request = {**REQUEST, **case.request, "model": ids[0] if len(ids) == 1 else ids}
    answer = caller.submit(request)
    assert answer.status_code == 202, answer.json()
    job = caller.ended(answer.json()["id"])
    assert job["state"] == "succeeded", job["error"]
    report = caller.http.get(f"/v1/jobs/{job['id']}/report").json()
    path = folder / "weights"
    path.write_bytes(caller.http.get(f"/v1/jobs/{job['id']}/weights").content)
    return Result(report=RankReport.model_validate(report), path=path, sent=sent, uploads=uploads)


@pytest.mark.parametrize(
    "case", [*TAKEN, *DTYPE_CASES, *FACTORISED_CASES, *AFTER], ids=lambda case: case.id
)
def test_taken(case: Taken, caller: Caller, tmp_path: Path) -> None:
    result = compressed(caller, case, tmp_path)
    found = {x.name: (x.action, x.reason, x.rank) for x in result.report.layers}
    expected = {
        # A reason that needs no spectrum may still tell the rank that the rule asked for.
        name: (action, reason, found[name][2] if rank is None and name in found else rank)
        for name, (action, reason, rank) in case.layers.items()
    }
    assert found == expected
    assert result.path.stat().st_size == result.report.bytes_after <= result.report.bytes_before
    case.also(result)


def test_ids_are_unique() -> None:
    lines: list[Any] = [*REFUSED, *TAKEN, *DTYPE_CASES, *FACTORISED_CASES, *AFTER]
    assert len({line.id for line in lines}) == len(lines)
