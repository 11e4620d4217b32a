"""A real S3 server of our own for the tests: one Ceph node (monitor, a memory-backed OSD, radosgw).

From Debian: ceph-mon ceph-osd radosgw ceph-common. Everything lies in one folder and listens on
loopback; nothing outlives `running`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import obstore
from obstore.store import S3Store

from tests.end_to_end.processes import free_port

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw")
CAPS = {"mon": "allow *", "osd": "allow *", "mgr": "allow *"}
READY_SECONDS = 120.0


class S3(NamedTuple):
    """How to reach it."""

    endpoint: str
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """As the service reads it (obstore's names are those of the AWS tools)."""
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def create_bucket(self, name: str) -> None:
        store = S3Store(
            name,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        url = obstore.sign(store, "PUT", "", timedelta(minutes=5))
        httpx.put(url, trust_env=False).raise_for_status()


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def running(folder: Path) -> Iterator[S3]:
    node = _Node(folder)
    try:
        node.start_cluster()
        yield node.start_gateway()
    finally:
        node.stop()


class _Node:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "ceph.conf"
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        for name in ("mon", "osd", "rgw", "run"):
            (folder / name).mkdir(parents=True)
        self.log = (folder / "output.log").open("ab")

    def start_cluster(self) -> None:
        monitor = f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
        fsid, osd_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.conf.write_text(self._configuration(fsid, monitor), encoding="ascii")
        keyring, monmap = self.folder / "keyring", self.folder / "monmap"
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.",
                  "--cap", "mon", "allow *")  # fmt: skip
        caps = [part for cap in CAPS.items() for part in ("--cap", *cap)]
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *caps)
        self._run("monmaptool", "--create", "--addv", "a", monitor, "--fsid", fsid, monmap)
        mon = ("ceph-mon", "-c", self.conf, "-i", "a")
        self._run(*mon, "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._start(*mon, "-f")
        self._ceph("osd", "new", osd_id)
        key = self._ceph("auth", "get-or-create", "osd.0", "mon", "allow profile osd",
                         "osd", "allow *")  # fmt: skip
        with keyring.open("a", encoding="ascii") as file:
            file.write(key)
        osd = ("ceph-osd", "-c", self.conf, "-i", "0")
        self._run(*osd, "--mkfs", "--osd-uuid", osd_id)
        self._ceph(
            "osd", "crush", "add", "osd.0", "1", "root=default", f"host={os.uname().nodename}"
        )
        self._start(*osd, "-f")
        _until(lambda: " 1 up" in self._ceph("osd", "stat"), "the object store daemon")

    def start_gateway(self) -> S3:
        endpoint = f"http://127.0.0.1:{self.port}"
        self._start("radosgw", "-c", self.conf, "-n", "client.admin", "-f",
                    f"--rgw-frontends=beast endpoint=127.0.0.1:{self.port}")  # fmt: skip
        _until(lambda: _answers(endpoint), "the gateway")
        found = S3(endpoint, "access", "secret-of-the-tests")
        self._run("radosgw-admin", "-c", self.conf, "user", "create", "--uid=tests",
                  "--display-name=tests", f"--access-key={found.access_key}",
                  f"--secret-key={found.secret_key}")  # fmt: skip
        return found

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.log.close()

    def _configuration(self, fsid: str, monitor: str) -> str:
        settings = {
            "fsid": fsid,
            "mon host": monitor,
            "mon initial members": "a",
            "public addr": "127.0.0.1",
            "auth cluster required": "cephx",
            "auth service required": "cephx",
            "auth client required": "cephx",
            "osd pool default size": 1,
            "osd pool default min size": 1,
            "osd pool default pg num": 4,
            "osd crush chooseleaf type": 0,
            "mon allow pool size one": "true",
            "osd objectstore": "memstore",
            "memstore device bytes": 2 * 1024**3,
            "keyring": self.folder / "keyring",
            "mon data": self.folder / "mon",
            "osd data": self.folder / "osd",
            "rgw data": self.folder / "rgw",
            "run dir": self.folder / "run",
            "pid file": self.folder / "run" / "$name.pid",
            "admin socket": "",
            "log file": self.folder / "$name.log",
        }
        return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())

    def _ceph(self, *arguments: str) -> str:
        return self._run("ceph", "-c", self.conf, "--connect-timeout", "60", *arguments)

    def _run(self, *command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, timeout=120, check=False
        )
        self.log.write(done.stderr)
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout.decode()

    def _start(self, *command: str | Path) -> None:
        process = subprocess.Popen([str(p) for p in command], stdout=self.log, stderr=self.log)
        self.processes.append(process)


def _answers(endpoint: str) -> bool:
    try:
        return httpx.get(endpoint, timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _until(check: object, what: str) -> None:
    assert callable(check)
    end = time.monotonic() + READY_SECONDS
    while not check():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {READY_SECONDS:g} s in vain for {what}")
        time.sleep(0.3)


if __name__ == "__main__":  # for hand-made trials: python -m tests.end_to_end.s3server FOLDER
    with running(Path(sys.argv[1])) as server:
        print("\n".join(f"export {name}={value}" for name, value in server.environment().items()))
        sys.stdout.flush()
        signal.pause()
