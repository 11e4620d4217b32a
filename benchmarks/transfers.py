"""Upload and download through the API against nginx, both by curl; against `cp` without nginx."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from benchmarks.measure import Summary, ratios, summary, take_turns
from benchmarks.service import serving

MB = 10**6
NGINX = """
daemon off; pid {root}/nginx.pid; error_log {root}/error.log; worker_processes 1; {user}
events {{ worker_connections 64; }}
http {{
  access_log off; client_max_body_size 0; sendfile on;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}/files; dav_methods PUT; }}
}}
"""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """MB/s of the service and of the reference; `share` is their ratio within a round."""

    direction: str
    reference: str
    size_bytes: int
    service_mb: Summary
    reference_mb: Summary
    share: Summary


def measure(size_bytes: int, *, rounds: int) -> tuple[list[Transfer], list[str]]:
    """Rows, and sentences about what could not be run."""
    if shutil.which("curl") is None:
        return [], ["transfers: not run, curl is not installed"]
    notes: list[str] = []
    with TemporaryDirectory(prefix="rankpress-bench-") as name, serving() as url:
        folder = Path(name)
        path = model_file(folder / "model.safetensors", size_bytes)
        size = path.stat().st_size
        if shutil.which("nginx"):
            with nginx(folder) as base:
                return _against(url, path, size, rounds, "nginx", *_by_curl(base, path)), notes
        notes.append("transfers: nginx is not installed, so the reference is cp")
        copy = partial(shutil.copyfile, path, folder / "copy")
        return _against(url, path, size, rounds, "cp", copy, copy), notes


def model_file(path: Path, size_bytes: int, side: int = 4096) -> Path:
    """A model of square float32 layers, about this large. Random: nothing compresses on the way."""
    side = min(side, max(64, int((size_bytes / 4) ** 0.5)))
    count = max(1, size_bytes // (4 * side * side))
    generator = torch.Generator().manual_seed(0)
    save_file(
        {f"{i}.weight": torch.randn(side, side, generator=generator) for i in range(count)}, path
    )
    return path


def _by_curl(base: str, path: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    target = f"{base}/uploaded"
    return partial(_curl, "-T", str(path), target), partial(_curl, "-o", "/dev/null", target)


def _against(
    url: str,
    path: Path,
    size: int,
    rounds: int,
    reference: str,
    put: Callable[[], object],
    get: Callable[[], object],
) -> list[Transfer]:
    uploads: list[str] = []

    def upload() -> None:
        body = ("-X", "POST", "-H", "Content-Type: application/octet-stream", "-T", str(path))
        uploads.append(json.loads(_curl(*body, f"{url}/v1/uploads"))["id"])
        if len(uploads) > 1:  # one stays, for the job below
            _curl("-X", "DELETE", f"{url}/v1/uploads/{uploads.pop(0)}")

    found = [_transfer("upload", reference, size, rounds, upload, put)]
    # Every layer stays dense: the result is as large as the input.
    job = _submitted(url, uploads[0])
    download = partial(_curl, "-o", "/dev/null", f"{url}/v1/jobs/{job}/weights")
    return [*found, _transfer("download", reference, size, rounds, download, get)]


def _submitted(url: str, upload: str) -> str:
    layers = [{"match": "*", "keep_dense": True}]
    body = json.dumps({"model": upload, "threshold": 0.9, "layers": layers})
    header = "Content-Type: application/json"
    job = json.loads(_curl("-X", "POST", "-H", header, "-d", body, f"{url}/v1/jobs"))
    while job["state"] in ("queued", "running"):
        time.sleep(0.1)
        job = json.loads(_curl(f"{url}/v1/jobs/{job['id']}"))
    if job["state"] != "succeeded":
        raise RuntimeError(f"the job that makes the file to download {job['state']}")
    found: str = job["id"]
    return found


def _transfer(
    direction: str,
    reference: str,
    size: int,
    rounds: int,
    ours: Callable[[], object],
    theirs: Callable[[], object],
) -> Transfer:
    turns = take_turns({"ours": ours, "theirs": theirs}, rounds=rounds)
    return Transfer(
        direction=direction,
        reference=reference,
        size_bytes=size,
        service_mb=summary([size / MB / t.wall for t in turns["ours"]]),
        reference_mb=summary([size / MB / t.wall for t in turns["theirs"]]),
        share=ratios(turns["theirs"], turns["ours"]),
    )


def _curl(*arguments: str) -> bytes:
    return subprocess.run(
        ["curl", "-sS", "--fail-with-body", *arguments], check=True, capture_output=True
    ).stdout


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """One nginx with PUT, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = folder / "nginx"
    (root / "files").mkdir(parents=True)
    user = "user root;" if Path("/proc/self").owner() == "root" else ""
    config = root / "nginx.conf"
    config.write_text(NGINX.format(root=root, port=port, user=user))
    process = subprocess.Popen(
        ["nginx", "-p", str(root), "-c", str(config), "-e", str(root / "error.log")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        if process.poll() is not None:
            raise RuntimeError("nginx did not start")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("nginx does not listen")
