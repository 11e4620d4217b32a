"""The limits of a compute process hold, and honest work is far from them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rankpress import formats
from worker.child.limits import GIB, MIB, allowance, limit_met, machine_memory
from worker.child.messages import Limits

CONFINED = """
import os, socket, sys
from pathlib import Path
from rankpress.schemas.request import JobRequest
from worker.child.limits import confine, no_network
from worker.child.messages import JobInputs, Limits

isolated = no_network()
confine(JobInputs(
    request=JobRequest(model="m", threshold=0.5),
    models=(Path(sys.argv[1]),),
    model_names=(None,),
    limits=Limits(memory_bytes=2**28, cpu_seconds=2, device="cpu"),
))
"""


def run(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    model = tmp_path / "model"
    model.write_bytes(bytes(1000))
    return subprocess.run(
        [sys.executable, "-c", CONFINED + script, str(model)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_address_space_is_bounded(tmp_path: Path) -> None:
    too_much = 2**28 + (os.cpu_count() or 1) * 2**29 + 2**24
    done = run(
        f"""
try:
    bytearray({too_much})
except MemoryError:
    print("refused")
bytearray(2**27)
""",
        tmp_path,
    )
    assert done.stdout == "refused\n", done.stderr


def test_file_size_is_bounded(tmp_path: Path) -> None:
    done = run(
        """
out = open(sys.argv[1] + ".out", "wb")
out.seek(2**30 - 10)
out.write(b"x" * 5)
out.flush()
out.seek(2**30 + 20_000)
try:
    out.write(b"x")
    out.flush()
except OSError as error:
    print(error.errno)
    os._exit(0)
""",
        tmp_path,
    )
    assert done.stdout == f"{errno.EFBIG}\n", done.stderr


def test_cpu_seconds_are_bounded(tmp_path: Path) -> None:
    done = run("while True: pass", tmp_path)
    assert done.returncode == -signal.SIGXCPU


def test_no_core_dumps(tmp_path: Path) -> None:
    done = run("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))", tmp_path)
    assert done.stdout == "(0, 0)\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_no_network(tmp_path: Path) -> None:
    """Where the kernel refuses a namespace, the process says so and keeps what it has."""
    done = run(
        """
names = [name for _, name in socket.if_nameindex()]
print(isolated, names)
""",
        tmp_path,
    )
    isolated, names = done.stdout.split(" ", 1)
    assert isolated == str(os.geteuid() == 0) or os.geteuid() != 0, done.stderr
    if isolated == "True":
        assert names.strip() == "['lo']"


def test_allowance_grows_with_the_files() -> None:
    small, large = allowance(Limits(), 10 * MIB), allowance(Limits(), 6 * GIB)
    assert small.cpu_seconds == 1800 + 600
    assert large.cpu_seconds > 4 * 24 * 3600
    assert small.address_bytes > machine_memory()
    assert large.address_bytes >= small.address_bytes + 3 * (6 * GIB - 10 * MIB)
    assert small.file_bytes > GIB
    assert allowance(Limits(), MIB, results=64).file_bytes > allowance(Limits(), MIB).file_bytes
    assert allowance(Limits(cpu_seconds=7), MIB).cpu_seconds == 7


def test_settings_of_files_reach_the_process() -> None:
    limits = Limits.model_validate_json(Limits(max_tensors=7, max_header_bytes=9).model_dump_json())
    assert limits.of_files == formats.Limits(max_tensors=7, max_header_bytes=9)
    assert Limits().of_files == formats.Limits()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), "memory"),
        (OSError(errno.ENOMEM, "mmap"), "memory"),
        (OSError(errno.EFBIG, "write"), "larger"),
        (OSError(errno.ENOSPC, "write"), "disk"),
    ],
)
def test_what_a_limit_is_told_as(error: Exception, says: str) -> None:
    met = limit_met(error)
    assert met is not None
    assert says in met.detail


def test_other_errors_are_no_limit() -> None:
    assert limit_met(ValueError("x")) is None
    assert limit_met(OSError(errno.EIO, "read")) is None
