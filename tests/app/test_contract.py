"""schemathesis against the running service: generated requests, valid and not, one by one and in
sequences; every answer must be one that the OpenAPI document describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.app.appkit import model_bytes
from tests.app.conftest import Served

FILES = st.sampled_from([model_bytes(), model_bytes(3, 5), b"", b"<html></html>"])
# A file that is no checkpoint, a body whose fields do not go together and a cursor of no page
# are refused: no schema can say that. Everything else is checked.
NOT_CHECKED_OF_THEM = [positive_data_acceptance]
PROFILE = settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def _excluded(case: Any) -> list[Any]:
    is_one = list(case.operation.body) or "cursor" in (case.query or {})
    return NOT_CHECKED_OF_THEM if is_one else []


def _as_it_is(context: Any, value: Any) -> dict[str, Any]:
    return {"data": value if isinstance(value, bytes) else str(value).encode()}


for media_type in ("application/octet-stream", "application/partial-upload"):
    schemathesis.openapi.media_type(media_type, FILES)
schemathesis.serializer("application/partial-upload")(_as_it_is)


@pytest.fixture(scope="module")
def document(shared: Served) -> Any:
    url = f"{shared.client.base_url}/openapi.json"
    found = schemathesis.openapi.from_url(url)
    # A stream of events ends with its job, and no worker ends one here.
    return found.exclude(path_regex="events")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_documented(mode: GenerationMode, document: Any) -> None:
    tried = set()
    for found in document.get_all_operations():
        operation = found.ok()

        @PROFILE
        @given(case=operation.as_strategy(generation_mode=mode))
        def answer(case: Any) -> None:
            tried.add(case.operation.label)
            case.call_and_validate(excluded_checks=_excluded(case), timeout=30)

        try:
            answer()
        except Unsatisfiable:  # nothing about the operation can be wrong
            assert mode is GenerationMode.NEGATIVE
    assert len(tried) > (10 if mode is GenerationMode.POSITIVE else 2)


def test_sequences_of_calls(document: Any) -> None:
    class Calls(document.as_state_machine()):  # type: ignore[misc]
        def validate_response(self, response: Any, case: Any, **kwargs: Any) -> None:
            case.validate_response(response, excluded_checks=_excluded(case))

    Calls.run(settings=settings(PROFILE, stateful_step_count=8))


@pytest.fixture(autouse=True)
def _room_for_jobs(shared: Served) -> Iterator[None]:
    """A full queue would answer every submission in one way."""
    yield
    for job in shared.client.get("/v1/jobs", params={"limit": 100}).json()["items"]:
        shared.client.delete(f"/v1/jobs/{job['id']}")
