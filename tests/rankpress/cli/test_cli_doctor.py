"""`rankpress doctor`: what it finds on a machine that is right, and on machines that are not."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rankpress import __version__
from rankpress.cli.doctor import installation, service, storage, trial
from rankpress.cli.doctor.check import Found
from rankpress.errors import Unauthorized, Unavailable
from rankpress.formats import inspect_file
from rankpress.service.engine import migrate
from rankpress.service.settings import Settings
from tests.rankpress.cli.test_cli import cli
from tests.rankpress.client.fakeservice import Reply, Seen, problem, running, whole_service


def answering(version: str = __version__, ready: int = 200) -> Any:
    rest = whole_service(b"weights")

    def handle(reply: Reply, seen: Seen) -> None:
        if seen.path == "/healthz":
            content = json.dumps({"status": "ok", "version": version}).encode()
            reply.send(200, content, Content_Type="application/json")
        elif seen.path == "/readyz":
            reply.send(ready)
        else:
            rest(reply, seen)

    return handle


def found(url: str, key: str | None = None, *, asked_for: bool = True) -> dict[str, Found]:
    return {c.name: c.found for c in service.answers(url, key, asked_for=asked_for)}


def test_command_on_a_fresh_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(answering()) as stand_in:
        done = cli("doctor", "--json", "--data-dir", str(data), url=stand_in.url)
    answer = json.loads(done.stdout)
    by_name = {c["name"]: c for c in answer["checks"]}
    assert (done.returncode, answer["ok"]) == (0, True), done.stdout
    for name in ("python", "rankpress", "extra server", "torch", "data folder", "service", "key"):
        assert by_name[name]["found"] == "ok", by_name[name]
    for name in ("database", "store", "worker"):
        assert by_name[name]["found"] == "skipped"
    assert not data.exists()  # nothing is made


def test_command_says_what_is_wrong_and_ends_with_1(tmp_path: Path) -> None:
    done = cli("doctor", "--data-dir", str(tmp_path), url="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "WRONG    service" in done.stdout
    assert "-> start one: rankpress serve" in done.stdout
    assert "Traceback" not in done.stderr


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    done = cli("doctor", "--json", "--data-dir", str(tmp_path), RANKPRESS_DEVICE="tpu")
    checks = {c["name"]: c for c in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert checks["settings"]["found"] == "wrong"
    assert "RANKPRESS_DEVICE" in checks["settings"]["detail"]


def test_a_folder_after_serve_has_database_and_store(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    migrate(settings)
    (tmp_path / "store").mkdir()
    assert [c.found for c in storage.checks(settings)] == [Found.OK, Found.OK, Found.OK]
    assert list((tmp_path / "store").rglob("*.*")) == []


def test_a_database_without_tables_is_not_migrated(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.sqlite_path is not None
    sqlite3.connect(settings.sqlite_path).close()
    check = storage.database(settings)
    assert (check.found, "not migrated" in check.detail) == (Found.WRONG, True)
    settings.sqlite_path.write_bytes(b"this is no database" * 100)
    assert storage.database(settings).found is Found.WRONG


def test_a_database_server_that_is_away() -> None:
    settings = Settings(database_url="postgresql://nobody:secret@127.0.0.1:9/none")
    check = storage.database(settings)
    assert check.found is Found.WRONG
    assert "secret" not in f"{check.detail} {check.advice}"


def test_a_store_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rankpress.service.store import Store

    def refuses(_: Store) -> None:
        raise Unavailable("no")

    monkeypatch.setattr(Store, "check", refuses)
    (tmp_path / "store").mkdir()
    check = storage.store(Settings(data_dir=tmp_path))
    assert (check.found, "RANKPRESS_STORE_URL" in check.advice) == (Found.WRONG, True)


def test_a_data_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "TemporaryFile", refuses)
    check = storage.data_folder(tmp_path / "data")
    assert check.found is Found.WRONG
    assert "Permission denied" in check.detail


def test_little_room_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOW_BYTES", 2**70)
    assert storage.data_folder(tmp_path).found is Found.WARNING


def test_service_of_another_release_not_ready_and_with_a_wrong_key() -> None:
    with running(answering("0.0.0", ready=503)) as stand_in:
        assert found(stand_in.url) == {
            "service": Found.WARNING,
            "readiness": Found.WRONG,
            "key": Found.OK,
        }
    refuses = problem(Unauthorized("no such key"))
    healthy = answering()

    def handle(reply: Reply, seen: Seen) -> None:
        (healthy if seen.path in ("/healthz", "/readyz") else refuses)(reply, seen)

    with running(handle) as stand_in:
        assert found(stand_in.url, "rp_wrong")["key"] is Found.WRONG


def test_another_service_at_the_address() -> None:
    with running(lambda reply, _: reply.send(200, b"<html>")) as stand_in:
        assert found(stand_in.url) == {"service": Found.WRONG}


def test_nothing_there_is_wrong_only_when_it_was_asked_for() -> None:
    assert found("http://127.0.0.1:9") == {"service": Found.WRONG}
    assert found("http://127.0.0.1:9", asked_for=False) == {"service": Found.WARNING}


def test_worker_without_a_heartbeat(tmp_path: Path) -> None:
    assert service.worker(tmp_path, needed=True).found is Found.WRONG
    assert service.worker(tmp_path, needed=False).found is Found.WARNING
    assert service.worker(tmp_path / "none", needed=True).found is Found.SKIPPED


def test_extras_broken_absent_and_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"alpha": "2.0", "beta": "1.0"}

    def version(name: str) -> str:
        if name not in there:
            raise installation.PackageNotFoundError(name)
        return there[name]

    lines = [
        "alpha>=1; extra == 'cli'",
        "beta>=2; extra == 'server'",
        "rankpress[cli]; extra == 'worker'",
        "gamma; extra == 'worker'",
        "gamma; extra == 'torch'",
    ]
    monkeypatch.setattr(installation, "requires", lambda _: lines)
    monkeypatch.setattr(installation, "version", version)
    checks = {c.name.removeprefix("extra "): c for c in installation.extras()}
    assert {name: checks[name].found for name in ("cli", "server", "worker", "torch")} == {
        "cli": Found.OK,
        "server": Found.WRONG,
        "worker": Found.WARNING,
        "torch": Found.SKIPPED,
    }
    assert checks["server"].detail == "does not fit: beta 1.0 (needed: >=2)"
    assert "missing gamma" in checks["worker"].detail


def test_a_gpu_that_is_asked_for_and_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"version": "2", "devices": [], "built_for_cuda": None, "threads": 2}

    def run(command: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, json.dumps(seen), "")

    monkeypatch.setattr(installation.subprocess, "run", run)
    assert installation.torch("cpu").found is Found.OK
    assert installation.torch("cuda").found is Found.WRONG
    seen["devices"] = ["Card"]
    assert installation.torch("cuda").detail == "2, Card"


def test_a_torch_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_LOOK_AT_TORCH", "raise ImportError('libcudart is missing')")
    check = installation.torch("auto")
    assert (check.found, "libcudart is missing" in check.detail) == (Found.WRONG, True)
    assert sys.executable not in check.detail


def test_the_tiny_model_is_of_rank_two(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from torch.linalg import matrix_rank

    path = tmp_path / "tiny.safetensors"
    trial.tiny_model(path)
    with path.open("rb") as file:
        assert inspect_file(file, path.stat().st_size).tensors is not None
    assert matrix_rank(load_file(path)["doctor.weight"]).item() == trial.RANK
