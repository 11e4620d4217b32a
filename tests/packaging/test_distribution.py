"""What is installed: the wheel, the releases, the one-way imports."""

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


def test_imports_run_one_way(tmp_path: Path) -> None:
    """import-linter's contracts of pyproject.toml, in a process of its own."""
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from importlinter.cli import lint_imports_command; "
            "sys.exit(lint_imports_command())",
            "--cache-dir",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert f"Contracts: {len(contracts['contracts'])} kept, 0 broken" in run.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    arguments = ["-q", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    run = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_rankpress_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(n for n in names if n.endswith("/METADATA"))
        needed = re.findall(r"^Requires-Dist: ([^;\n]+)$", archive.read(metadata).decode(), re.M)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"rankpress"}
    assert "rankpress/py.typed" in names
    assert {Requirement(n).name for n in needed} == {
        "anyio",  # httpx needs it anyway
        "httpx",
        "pydantic",
        "safetensors",
    }


def test_wheel_works_without_anything_else_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked into an empty folder, the client imports, without torch and the server's parts."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import rankpress;"
        "from rankpress import Client;"
        "assert rankpress.__file__.startswith(sys.argv[1]), rankpress.__file__;"
        "Client('http://127.0.0.1:9').close();"
        "heavy = {'torch', 'numpy', 'fastapi', 'dbos', 'obstore', 'typer'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found = {}
    for requirement in requirements:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{requirement} is no exact release"
        found[canonicalize_name(requirement.name)] = Version(specifier.version)
    return found


def needed(
    name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]
) -> Iterator[str]:
    """Every distribution below `name[extras]` on this interpreter, itself included."""
    key = (canonicalize_name(name), extras)
    if key in seen:
        return
    seen.add(key)
    yield key[0]
    for line in requires(name) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in extras | {""}):
            yield from needed(requirement.name, frozenset(requirement.extras), seen)


def test_every_dependency_has_an_exact_release() -> None:
    names = set(needed("rankpress", frozenset({"dev"}), set())) - {"rankpress"}
    # CUDA's libraries come with some wheels of torch, which pins them itself.
    names = {n for n in names if not n.startswith(("nvidia-", "cuda-")) and n != "triton"}
    assert names - set(pins()) == set()


def test_releases_are_those_that_are_tested_now() -> None:
    differing = {}
    for name, pinned in pins().items():
        try:
            installed = Version(version(name))
        except PackageNotFoundError:  # for another platform or Python
            continue
        if installed.public != pinned.public:
            differing[name] = f"{installed} installed, {pinned} in constraints.txt"
    assert differing == {}


def test_releases_are_public_ones() -> None:
    assert [n for n, v in pins().items() if v.local] == []


def test_no_file_names_a_package_index() -> None:
    """An index is the user's choice, by pip's configuration or TORCH_INDEX."""
    pattern = re.compile(r"(--(extra-)?index-url[ =]+[\"']?|find-links[ =]+)(https?:|file:|/)")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    files = [ROOT / f for f in listed.stdout.split("\0") if f] or [
        ROOT / f for f in ("Makefile", "Dockerfile", "constraints.txt", "README.md", ".ci/run")
    ]
    texts = (p for p in files if p.is_file() and p.suffix not in {".safetensors", ".pt", ".png"})
    named = [p.name for p in texts if pattern.search(p.read_text(errors="replace"))]
    assert named == []
