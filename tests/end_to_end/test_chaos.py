"""A slice of `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.__main__ import disturbed, undisturbed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[int, str]:
    found, _ = undisturbed(folder)
    return found


@pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_random_faults_lose_nothing_and_change_nothing(
    database: str, folder: Path, expected: dict[int, str], request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgres" else ""
    faults, counts, _ = disturbed(
        folder / database, expected, jobs=4, faults=10, workers=2, seed=1, database_url=url
    )
    assert faults.done.total() == 10
    assert counts.wrong == ()
    assert counts.succeeded == counts.results == 4
