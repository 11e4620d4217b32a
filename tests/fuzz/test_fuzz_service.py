"""500 of the inputs of `make fuzz`, through a running service. Hypothesis searches the parsers
themselves, which is faster: tests/rankpress/formats/test_fuzz_formats.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import run

INPUTS = 500


@pytest.mark.slow
def test_the_service_survives(tmp_path: Path) -> None:
    count = run(INPUTS, seed=1, folder=tmp_path)
    assert count.inputs == INPUTS
    assert count.refused + count.taken == INPUTS
    # Not all of them bounce at the door, nor do all get in: each stage was reached.
    assert count.refused > INPUTS / 4
    assert count.succeeded > INPUTS / 50
    assert count.failed > 0
    assert {"corrupt-file", "unsupported-format", "unsafe-pickle"} <= set(count.problems)
