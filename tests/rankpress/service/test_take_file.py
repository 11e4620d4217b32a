from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from rankpress.errors import InsufficientStorage
from rankpress.service.store import Missing, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "store").as_uri())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scratch" / "file"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


def test_the_file_becomes_the_object_without_a_copy(store: Store, file: Path) -> None:
    inode = file.stat().st_ino
    store.take_file("jobs/a/part", file)
    assert store.get_bytes("jobs/a/part") == b"weights"
    assert store.info("jobs/a/part").size == 7
    assert not file.exists()
    found = store.local_path("jobs/a/part")
    assert found is not None
    assert found.stat().st_ino == inode


def test_what_was_there_is_replaced(store: Store, file: Path) -> None:
    store.put_bytes("key", b"older and longer")
    store.take_file("key", file)
    assert store.get_bytes("key") == b"weights"


def test_another_disk_is_copied_to(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr(Path, "replace", refuses)
    store.take_file("jobs/a/part", file)
    assert store.get_bytes("jobs/a/part") == b"weights"
    assert not file.exists()


def test_a_store_that_is_no_folder_is_put_to(file: Path) -> None:
    store = Store("memory:///")
    store.take_file("a/b", file)
    assert store.get_bytes("a/b") == b"weights"
    assert not file.exists()


def test_a_full_disk_is_said(store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuses)
    with pytest.raises(InsufficientStorage):
        store.take_file("a/b", file)
    assert file.exists()


def test_a_file_that_is_not_there_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Missing):
        store.take_file("a/b", tmp_path / "none")


def test_folders_cleaned_up_meanwhile_do_no_harm(store: Store, tmp_path: Path) -> None:
    """Deletes of the last object in a folder take the folder with them."""
    failures: list[BaseException] = []

    def take(number: int) -> None:
        try:
            for i in range(30):
                path = tmp_path / f"{number}-{i}"
                path.write_bytes(b"x")
                store.take_file(f"jobs/a/{number}", path)
                store.delete(f"jobs/a/{number}")
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=take, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
