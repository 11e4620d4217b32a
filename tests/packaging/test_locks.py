"""The images' locks: complete, hashed, and of the releases that the tests ran with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("api", "build", "worker")
EXTRAS = {
    "api": ("cli", "server", "otel"),
    "worker": ("cli", "server", "worker", "evaluation", "otel"),
}
UNLOCKED = {"torch", "rankpress"}


def pins(path: Path) -> dict[str, tuple[str, int]]:
    """Release and number of hashes by canonical name."""
    found = {}
    for block in re.split(r"^(?=[A-Za-z])", path.read_text(), flags=re.M)[1:]:
        match = re.match(r"([\w.-]+)==([^\s;\\]+)", block)
        assert match, block[:80]
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}(?=\s)", block)
        found[canonicalize_name(match[1])] = (match[2], len(hashes))
    return found


def lock(name: str) -> dict[str, tuple[str, int]]:
    return pins(ROOT / "requirements" / f"{name}.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_every_file_has_a_hash(name: str) -> None:
    locked = lock(name)
    assert len(locked) > 20
    assert [package for package, (_, hashes) in locked.items() if not hashes] == []
    assert not UNLOCKED & set(locked)
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert not re.search(r"://|--index|--find-links|@ ", text), "no place of any one machine"


@pytest.mark.parametrize("name", ["api", "worker"])
def test_releases_are_those_of_the_constraints(name: str) -> None:
    tested = pins(ROOT / "constraints.txt")
    differing = {
        package: (release, tested.get(package))
        for package, (release, _) in lock(name).items()
        if package not in tested or tested[package][0] != release
    }
    assert differing == {}


@pytest.mark.parametrize("name", EXTRAS)
def test_what_the_project_asks_for_is_locked(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra in EXTRAS[name]:
        asked += project["optional-dependencies"][extra]
    locked = lock(name)
    for text in asked:
        wanted = Requirement(text)
        package = canonicalize_name(wanted.name)
        if package in UNLOCKED:
            continue
        assert package in locked, f"{text}: make lock"
        assert Version(locked[package][0]) in wanted.specifier, f"{text}: make lock"
