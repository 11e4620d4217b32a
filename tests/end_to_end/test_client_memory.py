"""The client holds no file: the second half of `make memory`, with 0.3 GB."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.client_memory import CLIENT_LIMIT, KINDS, measure

SIZE_BYTES = 300 * 10**6


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_transfer_takes_a_few_chunks_and_not_the_file(kind: str, tmp_path: Path) -> None:
    held = measure(tmp_path, SIZE_BYTES, kind)
    # One small matrix became its factors; all else comes back in a file written anew.
    assert SIZE_BYTES * 0.9 < held.received_bytes < held.sent_bytes
    assert held.beyond_idle < CLIENT_LIMIT < SIZE_BYTES / 8, held
