"""The running service that the commands of README, documentation and examples speak to."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`rankpress serve`, on a free port and a folder of its own."""
    folder = tmp_path_factory.mktemp("serve")
    command = ["serve", "--port", "0", "--data-dir", str(folder)]
    with subprocess.Popen(
        [sys.executable, "-m", "rankpress.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found is not None, line
            yield found[0]
        finally:
            process.terminate()
            process.wait(60)
