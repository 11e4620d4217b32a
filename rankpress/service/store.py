"""The object store: a local folder by default; S3, GCS or Azure by URL (obstore)."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

from rankpress.errors import InsufficientStorage, Unavailable
from rankpress.schemas.base import Frozen
from rankpress.service import localfiles

if TYPE_CHECKING:
    from obstore import ReadableFile

M = TypeVar("M", bound=Frozen)
CHUNK = 8 * 1024**2
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class ObjectInfo(NamedTuple):
    key: str
    size: int
    modified: datetime


class Missing(KeyError):
    """No object under this key."""


class Store:
    """Streams in and out; a put that fails midway leaves nothing behind, and one that has ended
    is on the disk.

    Errors: `Missing` for an absent key, `InsufficientStorage` when the disk is full,
    `Unavailable` for everything else that the store refuses.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        if url.startswith("file://"):
            self._store: ObjectStore = from_url(url, mkdir=True, automatic_cleanup=True)
        else:
            self._store = from_url(url)

    async def put_stream(self, key: str, chunks: AsyncIterable[bytes]) -> None:
        with _mapped(key):
            if (root := self._root) is not None:
                await localfiles.write(root / key, chunks, root)
                return
            await obstore.put_async(self._store, key, chunks, chunk_size=CHUNK, max_concurrency=2)

    def put_file(self, key: str, path: Path) -> None:
        with _mapped(key):
            obstore.put(self._store, key, path, chunk_size=CHUNK, max_concurrency=2)
            self._settle(key)

    def take_file(self, key: str, path: Path) -> None:
        """The file becomes the object and is gone from `path`. Where the store is a folder on the
        same disk it is renamed and no byte is copied; either way it is on the disk, whole."""
        root = self._root
        with _mapped(key):
            if root is None or not localfiles.take(path, root / key, root):
                self.put_file(key, path)
                path.unlink()

    def put_bytes(self, key: str, data: bytes) -> None:
        with _mapped(key):
            obstore.put(self._store, key, data, use_multipart=False)
            self._settle(key)

    def get_bytes(self, key: str) -> bytes:
        with _mapped(key):
            return bytes(obstore.get(self._store, key).bytes())

    def put_model(self, key: str, model: Frozen) -> None:
        self.put_bytes(key, model.model_dump_json().encode())

    def get_model(self, key: str, kind: type[M]) -> M:
        return kind.model_validate_json(self.get_bytes(key))

    async def stream(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes [start, end) in chunks; nothing for an empty range."""
        if start >= end:
            return
        with _mapped(key):
            if (path := self.local_path(key)) is not None:
                async for chunk in localfiles.read(path, start, end):
                    yield chunk
                return
            got = await obstore.get_async(self._store, key, options={"range": (start, end)})
            async for chunk in got.stream(min_chunk_size=localfiles.PIECE):
                yield bytes(chunk)

    def info(self, key: str) -> ObjectInfo:
        with _mapped(key):
            meta = obstore.head(self._store, key)
        return ObjectInfo(key, meta["size"], meta["last_modified"])

    def exists(self, key: str) -> bool:
        try:
            self.info(key)
        except Missing:
            return False
        return True

    def open(self, key: str) -> IO[bytes]:
        """A seekable reader that fetches what is read, for headers and indexes."""
        path = self.local_path(key)
        with _mapped(key):
            if path is not None:
                return path.open("rb")
            return io.BufferedReader(_Remote(obstore.open_reader(self._store, key)), CHUNK // 8)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below a folder."""
        with _mapped(prefix):
            for batch in obstore.list(self._store, prefix):
                for meta in batch:
                    yield ObjectInfo(meta["path"], meta["size"], meta["last_modified"])

    def delete(self, *keys: str) -> None:
        """Absent keys are no error: what was asked for is so."""
        for key in keys:
            with _mapped(key):
                try:
                    obstore.delete(self._store, key)
                except FileNotFoundError:
                    continue

    def delete_prefix(self, prefix: str) -> None:
        self.delete(*[info.key for info in self.list(prefix)])

    def local_path(self, key: str) -> Path | None:
        """Where the object lies when the store is a local folder; None otherwise."""
        return None if self._root is None else self._root / key

    def signed_url(self, key: str, seconds: int) -> str | None:
        """Where a reader gets the object from the store itself, for so long and without a key of
        ours; None where the store cannot sign, as a local folder."""
        if not isinstance(self._store, (S3Store, GCSStore, AzureStore)):
            return None
        with _mapped(key):
            return obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))

    def fetch(self, key: str, into: Path) -> Path:
        """A local file with the object's bytes: the stored file itself, or a copy under `into`."""
        if (path := self.local_path(key)) is not None:
            self.info(key)
            return path
        into.parent.mkdir(parents=True, exist_ok=True)
        part = into.with_name(f"{into.name}.{uuid.uuid4().hex}.part")  # two may fetch at once
        with _mapped(key), part.open("wb") as file:
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK):
                file.write(chunk)
        part.replace(into)
        return into

    def free_bytes(self) -> int | None:
        """Free bytes of the disk below a local store; None for a remote one."""
        path = self.local_path("")
        return None if path is None else shutil.disk_usage(path).free

    def check(self) -> None:
        """Writes, reads and deletes a small object, for readiness. Raises `Unavailable`."""
        key = f"health/{os.getpid()}"
        with _mapped(key):
            obstore.put(self._store, key, b"ok", use_multipart=False)
        self.get_bytes(key)
        self.delete(key)

    def _settle(self, key: str) -> None:
        """What was put outlives a power cut from here on. Remote stores answer when it does."""
        if self._root is not None:
            localfiles.settle(self._root / key, self._root)

    @property
    def _root(self) -> Path | None:
        """The store's folder; None of a remote one."""
        if isinstance(self._store, LocalStore) and self._store.prefix is not None:
            return Path(self._store.prefix)
        return None


class _Remote(io.RawIOBase):
    """obstore's reader as Python's own kind of file: a context manager whose reads are bytes."""

    def __init__(self, reader: ReadableFile) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = memoryview(self._reader.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()


def sha256_of(path: Path, progress: Callable[[int], Any] | None = None) -> str:
    """Lower-case hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


@contextmanager
def _mapped(key: str) -> Iterator[None]:
    """Every error of the layer below, as one of ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise Missing(key) from error
    except BaseError as error:
        if "No space left" in str(error) or "quota" in str(error).lower():
            raise InsufficientStorage(_NO_SPACE_DETAIL) from error
        raise Unavailable("the object store did not do what was asked of it") from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise InsufficientStorage(_NO_SPACE_DETAIL) from error
        raise Unavailable("the store's disk did not do what was asked of it") from error


_NO_SPACE_DETAIL = "the service's store has no space left; nothing of this request was kept"
