"""Uploads and downloads over real connections that break."""

from __future__ import annotations

import hashlib
import io
import os
import random
from pathlib import Path
from typing import Any

import pytest

from rankpress.client import (
    ConnectionFailed,
    DownloadCorrupt,
    SourceChanged,
    UnexpectedAnswer,
    uploads,
)
from rankpress.errors import DigestMismatch, NotFound, TooManyRequests, Unavailable
from tests.rankpress.client.fakeservice import (
    accepts_upload,
    digest,
    hangs_up,
    problem,
    resumes,
    running,
    serves,
)

CONTENT = random.Random(0).randbytes(3_000_001)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / 'a "name"; \u00e9.safetensors'
    path.write_bytes(CONTENT)
    return path


def test_an_upload_is_streamed_with_its_digest(drive: Any, model: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    with running(accepts_upload) as service:
        upload = drive(
            service.url, lambda c: c.upload(model, progress=lambda *s: steps.append(s)), api_key="k"
        )
    (seen,) = service.seen
    assert upload.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert seen.body == CONTENT
    assert (seen.method, seen.path) == ("POST", "/v1/uploads")
    assert seen.headers["repr-digest"] == digest(CONTENT)
    assert seen.headers["content-length"] == str(len(CONTENT))
    assert "transfer-encoding" not in seen.headers
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.headers["content-disposition"] == (
        "attachment; filename*=UTF-8''a%20%22name%22%3B%20%C3%A9.safetensors"
    )
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert steps == sorted(steps)
    assert len(steps) > 2


def test_an_open_file_is_sent_from_where_it_stands(drive: Any) -> None:
    file = io.BytesIO(b"skipped" + CONTENT)
    file.seek(7)
    with running(hangs_up, accepts_upload) as service:
        drive(service.url, lambda c: c.upload(file))
    assert [s.body for s in service.seen] == [CONTENT, CONTENT]


def test_bytes_and_nothing_at_all(drive: Any) -> None:
    with running(accepts_upload) as service:
        assert drive(service.url, lambda c: c.upload_bytes(b"abc")).size_bytes == 3
        assert drive(service.url, lambda c: c.upload_bytes(b"")).size_bytes == 0


def test_a_pipe_cannot_be_uploaded(drive: Any) -> None:
    read, write = os.pipe()
    os.close(write)
    with (
        running(accepts_upload) as service,
        open(read, "rb") as file,  # noqa: PTH123
        pytest.raises(ValueError, match="upload_bytes"),
    ):
        drive(service.url, lambda c: c.upload(file))


def test_an_upload_is_tried_again(drive: Any, model: Path) -> None:
    busy = problem(TooManyRequests("later"), Retry_After="0")
    down = problem(Unavailable("no database"))
    with running(hangs_up, busy, down, accepts_upload) as service:
        drive(service.url, lambda c: c.upload(model))
    assert [len(s.body) for s in service.seen] == [len(CONTENT)] * 4


def test_tries_are_counted(drive: Any, model: Path) -> None:
    with running(hangs_up) as service, pytest.raises(ConnectionFailed):
        drive(service.url, lambda c: c.upload(model))
    assert len(service.seen) == 4
    down = problem(Unavailable("no database"))
    with running(down) as service, pytest.raises(Unavailable, match="no database"):
        drive(service.url, lambda c: c.upload(model))
    assert len(service.seen) == 4


def test_a_refusal_is_not_tried_again(drive: Any, model: Path) -> None:
    with running(problem(DigestMismatch("other bytes"))) as service, pytest.raises(DigestMismatch):
        drive(service.url, lambda c: c.upload(model))
    assert len(service.seen) == 1


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The content counts as large."""
    monkeypatch.setattr(uploads, "RESUMABLE_BYTES", 1000)


@pytest.mark.usefixtures("large")
def test_a_large_upload_goes_on_where_it_broke(drive: Any, model: Path) -> None:
    kept = bytearray()
    steps: list[int] = []
    with running(resumes(stored=kept)) as service:
        # More cuts than one call has attempts: each brought bytes.
        service.cuts = [1_000_000, 1, 400_000, 70_000, 1, 1, 2]
        call = lambda c: c.upload(model, progress=lambda done, _total: steps.append(done))  # noqa: E731
        upload = drive(service.url, call)
    assert bytes(kept) == CONTENT
    assert upload.sha256 == hashlib.sha256(CONTENT).hexdigest()
    create, first = service.seen[:2]
    assert create.body == b""
    assert create.headers["upload-complete"] == "?0"
    assert create.headers["upload-length"] == str(len(CONTENT))
    assert create.headers["repr-digest"] == digest(CONTENT)
    assert first.headers["content-type"] == "application/partial-upload"
    # The path of `Location` alone, never its host.
    assert {s.path for s in service.seen[1:]} == {"/v1/uploads/up_1"}
    offsets = [int(s.headers["upload-offset"]) for s in service.seen if s.method == "PATCH"]
    assert offsets[:4] == [0, 1_000_000, 1_000_001, 1_400_001]
    assert steps[-1] == len(CONTENT)


@pytest.mark.usefixtures("large")
def test_a_large_upload_without_progress_is_given_up(drive: Any, model: Path) -> None:
    with running(resumes()) as service:
        service.cuts = [0] * 10
        with pytest.raises(ConnectionFailed):
            drive(service.url, lambda c: c.upload(model))
    assert sum(s.method == "PATCH" for s in service.seen) == 4


@pytest.mark.usefixtures("large")
def test_a_lost_answer_does_not_lose_the_upload(drive: Any, model: Path) -> None:
    with running(resumes(lose_last_answer=True)) as service:
        upload = drive(service.url, lambda c: c.upload(model))
    assert upload.size_bytes == len(CONTENT)
    assert [s.method for s in service.seen] == ["POST", "PATCH", "HEAD", "GET"]


@pytest.mark.usefixtures("large")
def test_a_large_upload_that_is_refused(drive: Any, model: Path) -> None:
    refuse = problem(DigestMismatch("other bytes"))
    with running(resumes(), refuse) as service, pytest.raises(DigestMismatch):
        drive(service.url, lambda c: c.upload(model))
    assert len(service.seen) == 2
    with (
        running(lambda r, _s: r.send(201, Location="/v1/uploads/..%2F")) as service,
        pytest.raises(UnexpectedAnswer),
    ):
        drive(service.url, lambda c: c.upload(model))


@pytest.mark.parametrize("after", [b"", b"xx" * len(CONTENT)])
def test_a_file_that_changes_meanwhile(drive: Any, model: Path, after: bytes) -> None:
    class Changing(io.BytesIO):
        reads = 0

        def seek(self, *arguments: int) -> int:
            self.reads += 1
            if self.reads == 2:
                self.truncate(0)
                super().seek(0)
                self.write(after)
            return super().seek(*arguments)

    with running(accepts_upload) as service, pytest.raises(SourceChanged):
        drive(service.url, lambda c: c.upload(Changing(CONTENT)))


def test_a_download_is_verified_and_renamed(drive: Any, tmp_path: Path) -> None:
    target, steps = tmp_path / "out.bin", []
    target.write_bytes(b"old")
    with running(serves(CONTENT)) as service:
        call = lambda c: c.download("j/../1", target, progress=lambda *s: steps.append(s))  # noqa: E731
        assert drive(service.url, call) == target
    assert target.read_bytes() == CONTENT
    assert service.seen[0].path == "/v1/jobs/j%2F..%2F1/weights"
    assert service.seen[0].headers["accept-encoding"] == "identity"
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("cut_after", [0, 1, 1_000_000])
def test_a_cut_download_is_resumed(drive: Any, cut_after: int, tmp_path: Path) -> None:
    cut = serves(CONTENT, cut_after=cut_after)
    with running(cut, cut, serves(CONTENT)) as service:
        drive(service.url, lambda c: c.download("1", tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == CONTENT
    ranges = [s.headers.get("range") for s in service.seen]
    assert ranges[0] is None
    if cut_after:
        assert ranges[1:] == [f"bytes={cut_after}-", f"bytes={2 * cut_after}-"]


def test_progress_buys_new_tries(drive: Any, tmp_path: Path) -> None:
    cut = serves(CONTENT, cut_after=200_000)
    with running(*[cut] * 12, serves(CONTENT)) as service:
        drive(service.url, lambda c: c.download("1", tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_a_resource_that_changed_is_fetched_anew(drive: Any, tmp_path: Path) -> None:
    other = CONTENT[::-1] + b"more"
    with running(serves(CONTENT, cut_after=1000), serves(other)) as service:
        drive(service.url, lambda c: c.download("1", tmp_path / "out"))
    assert service.seen[1].headers["range"] == "bytes=1000-"
    assert (tmp_path / "out").read_bytes() == other


def test_a_flipped_byte_is_found_and_nothing_kept(drive: Any, tmp_path: Path) -> None:
    flipped = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with running(serves(flipped, announced=CONTENT)) as service, pytest.raises(DownloadCorrupt):
        drive(service.url, lambda c: c.download("1", target))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def lies(status: int, content: bytes = b"x", **headers: str) -> Any:
    return lambda reply, _seen: reply.send(status, content, **headers)


@pytest.mark.parametrize(
    "answer",
    [
        lies(200),  # no digest
        lies(200, ETag='"not-a-digest"'),
        lies(200, Repr_Digest="sha-256=:!!!:"),
        lies(200, Repr_Digest=digest(b"x"), Content_Encoding="gzip"),
        lies(206, Repr_Digest=digest(b"x")),  # a part nobody asked for
        lies(206, Repr_Digest=digest(b"x"), Content_Range="bytes 5-5/6"),
        lies(204, b""),
        lies(302, Location="http://127.0.0.1:1/"),
        lies(500, b"<html>", Content_Type="text/html"),
    ],
)
def test_a_strange_server_is_refused(drive: Any, answer: Any, tmp_path: Path) -> None:
    with running(answer) as service, pytest.raises(UnexpectedAnswer):
        drive(service.url, lambda c: c.download("1", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_the_servers_problem_is_raised_and_nothing_left(drive: Any, tmp_path: Path) -> None:
    with running(problem(NotFound("no job"))) as service, pytest.raises(NotFound, match="no job"):
        drive(service.url, lambda c: c.download("1", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_target(drive: Any, tmp_path: Path) -> None:
    with running(serves(CONTENT)) as service, pytest.raises(IsADirectoryError):
        drive(service.url, lambda c: c.download("1", tmp_path))
    assert service.seen == []


def test_a_callback_that_raises_ends_the_transfer(drive: Any, tmp_path: Path) -> None:
    def stop(_done: int, _total: int | None) -> None:
        raise KeyError("stop")

    with running(serves(CONTENT)) as service, pytest.raises(KeyError):
        drive(service.url, lambda c: c.download("1", tmp_path / "out", progress=stop))
    assert list(tmp_path.iterdir()) == []
