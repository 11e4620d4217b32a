"""A put that has ended outlives a power cut: its bytes, its name and its folders' names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rankpress.service.store import Store

KEY = "uploads/a/b/data"


async def pieces() -> AsyncIterator[bytes]:
    yield b"pie"
    yield b"ces"


def by_bytes(store: Store, file: Path) -> None:
    store.put_bytes(KEY, b"pieces")


def by_stream(store: Store, file: Path) -> None:
    asyncio.run(store.put_stream(KEY, pieces()))


def by_file(store: Store, file: Path) -> None:
    store.put_file(KEY, file)


def by_taking(store: Store, file: Path) -> None:
    store.take_file(KEY, file)


@pytest.mark.parametrize("put", [by_bytes, by_stream, by_file, by_taking])
def test_all_of_it_is_synced(
    put: Callable[[Store, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", noted)
    root, file = tmp_path / "store", tmp_path / "file"
    file.write_bytes(b"pieces")
    store = Store(root.as_uri())
    put(store, file)
    # The bytes before any name. A file that is taken keeps its inode.
    paths = [root / KEY, root / "uploads/a/b", root / "uploads/a", root / "uploads", root]
    assert synced == [path.stat().st_ino for path in paths]
    assert store.get_bytes(KEY) == b"pieces"
