"""Python, the package, the packages of its extras, and torch with its device."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rankpress
from rankpress import __version__
from rankpress.cli.doctor.check import Check, ok, skipped, warning, wrong

OLDEST = (3, 11)
EXTRAS = {
    "cli": "the command line",
    "server": "the API and the queue",
    "worker": "the compute",
    "torch": "loading compressed files into a module",
    "evaluation": "evaluation by an ONNX template",
    "export": "rankpress.export_template",
}
TORCH_SECONDS = 120
_LOOK_AT_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "built_for_cuda": torch.version.cuda,
    "threads": torch.get_num_threads(),
}))
"""  # noqa: E501


def python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST:
        return wrong("python", found, "install Python 3.11 or newer")
    return ok("python", found)


def package() -> Check:
    root = Path(rankpress.__file__).resolve().parent.parent
    is_checkout = (root / "app" / "__main__.py").is_file()
    what = f"a checkout, {root}" if is_checkout else "the installed package (client alone)"
    return ok("rankpress", f"{__version__}, {what}")


def extras() -> Iterator[Check]:
    """One check for each extra: complete, absent (fine where it is not needed), or broken."""
    for extra, purpose in EXTRAS.items():
        present, missing, unfit = _packages(extra)
        name, install = f"extra {extra}", f"pip install 'rankpress[{extra}]'"
        if unfit:
            yield wrong(name, f"does not fit: {', '.join(unfit)}", install)
        elif not present and not missing:
            why = "the installed package is older than this code and does not know it"
            yield skipped(name, why, "pip install -e . once more")
        elif not missing:
            yield ok(name, ", ".join(present))
        elif not present:
            yield skipped(name, f"not installed; it is for {purpose}", install)
        else:
            yield warning(name, f"{purpose}: missing {', '.join(missing)}", install)


def _packages(extra: str) -> tuple[list[str], list[str], list[str]]:
    """(name and version of what is there, what is missing, what is of another release)."""
    present, missing, unfit = [], [], []
    for requirement in sorted(_requirements(extra), key=lambda r: r.name):
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if requirement.specifier.contains(found, prereleases=True):
            present.append(f"{requirement.name} {found}")
        else:
            unfit.append(f"{requirement.name} {found} (needed: {requirement.specifier})")
    return present, missing, unfit


def _requirements(extra: str) -> Iterator[Requirement]:
    """Of this extra, those of the extras that it names included."""
    for line in requires("rankpress") or ():
        requirement = Requirement(line)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if canonicalize_name(requirement.name) == "rankpress":
            for inner in requirement.extras:
                yield from _requirements(inner)
        elif not requirement.marker.evaluate({"extra": ""}):
            yield requirement


def torch(device: str) -> Check:
    """Looked at in a process of its own: the import takes seconds, and may crash.

    `device` is the setting: `cuda` makes the absence of a GPU an error.
    """
    try:
        version("torch")
    except PackageNotFoundError:
        return skipped("torch", "not installed; needed by the worker and by rankpress.loading")
    try:
        run = subprocess.run(
            [sys.executable, "-P", "-c", _LOOK_AT_TORCH],
            capture_output=True,
            text=True,
            timeout=TORCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return wrong("torch", f"its import takes over {TORCH_SECONDS} s", "look at the disk's load")
    if run.returncode != 0:
        last = run.stderr.strip().splitlines()[-1:] or [f"exit status {run.returncode}"]
        return wrong("torch", f"cannot be imported: {last[0]}", "install torch anew")
    seen = json.loads(run.stdout)
    where = ", ".join(seen["devices"]) or f"CPU, {seen['threads']} threads"
    found = f"{seen['version']}, {where}"
    if seen["devices"] or device == "cpu":
        return ok("torch", found)
    if device == "cuda":
        return wrong(
            "torch",
            f"{found}; RANKPRESS_DEVICE=cuda asks for a GPU",
            "install a CUDA build of torch and the driver, or set RANKPRESS_DEVICE=auto"
            if seen["built_for_cuda"] is None
            else "the driver shows no GPU: look at nvidia-smi, or set RANKPRESS_DEVICE=auto",
        )
    if seen["built_for_cuda"] is not None and _has_nvidia():
        return warning("torch", f"{found}, although there is an NVIDIA device", "see nvidia-smi")
    return ok("torch", found)


def _has_nvidia() -> bool:
    return any(re.fullmatch(r"nvidia\d+", p.name) for p in Path("/dev").glob("nvidia*"))
