"""A store that fails: what stays, and what is said."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rankpress.errors import InsufficientStorage, Unavailable
from rankpress.service.store import Missing, Store

MIB = 1024**2
SIZE = 16 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here: it takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def everything(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def pieces(count: int, fail: bool = False) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * MIB
    if fail:
        raise RuntimeError("the client went away")


def test_full_disk_while_streaming(small_disk: Path) -> None:
    store = Store(small_disk.as_uri())
    with pytest.raises(InsufficientStorage, match="no space"):
        asyncio.run(store.put_stream("uploads/t/1/data", pieces(40)))
    assert everything(small_disk) == []
    store.put_bytes("small", b"fits again")


def test_full_disk_by_file(small_disk: Path, tmp_path: Path) -> None:
    store = Store(small_disk.as_uri())
    big = tmp_path / "big"
    big.write_bytes(b"x" * 40 * MIB)
    with pytest.raises(InsufficientStorage):
        store.put_file("jobs/t/1/weights", big)
    assert everything(small_disk) == []


def test_full_disk_by_bytes(small_disk: Path) -> None:
    store = Store(small_disk.as_uri())
    with pytest.raises(InsufficientStorage):
        store.put_bytes("jobs/t/1/report.json", b"x" * 40 * MIB)
    assert everything(small_disk) == []


def test_what_was_there_stays_when_its_replacement_does_not_fit(small_disk: Path) -> None:
    store = Store(small_disk.as_uri())
    store.put_bytes("key", b"old")
    with pytest.raises(InsufficientStorage):
        store.put_bytes("key", b"x" * 40 * MIB)
    assert store.get_bytes("key") == b"old"


def test_free_bytes(small_disk: Path) -> None:
    store = Store(small_disk.as_uri())
    before = store.free_bytes()
    assert before is not None
    assert before <= SIZE
    store.put_bytes("key", b"x" * 4 * MIB)
    after = store.free_bytes()
    assert after is not None
    assert before - after >= 4 * MIB


def test_a_put_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    with pytest.raises(Exception, match="went away"):
        asyncio.run(store.put_stream("a/b", pieces(20, fail=True)))
    with pytest.raises(Missing):
        store.info("a/b")
    assert everything(tmp_path) == []


def test_a_put_that_fails_midway_leaves_what_was_there(tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    store.put_bytes("a/b", b"old")
    with pytest.raises(Exception, match="went away"):
        asyncio.run(store.put_stream("a/b", pieces(20, fail=True)))
    assert store.get_bytes("a/b") == b"old"


@pytest.mark.parametrize("size", [1, 100])
def test_a_disk_that_fails_at_the_sync_keeps_no_put(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells its error once; a long file is synced on the way, too."""
    told: list[int] = []

    def broken(descriptor: int) -> None:
        if not told:
            told.append(descriptor)
            raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fsync", broken)
    store = Store((tmp_path / "store").as_uri())
    with pytest.raises(Unavailable):
        asyncio.run(store.put_stream("a/b", pieces(size)))
    assert told
    assert list((tmp_path / "store").iterdir()) == []
