"""A PostgreSQL database, where there is a server for one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.end_to_end.databases import fresh_database

POSTGRES = "RANKPRESS_TEST_POSTGRES_URL"


@pytest.fixture(scope="module")
def postgres_database() -> Iterator[str]:
    if not (server := os.environ.get(POSTGRES)):
        pytest.skip(f"no PostgreSQL server: set {POSTGRES} to run this test")
    with fresh_database(server) as url:
        yield url
