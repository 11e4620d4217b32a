"""A small HTTP server on a real socket that answers as the API does, and misbehaves as told: the
client is tested against connections that really break."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rankpress.errors import RankpressError
from rankpress.names import Action, Kind, Reason, Rule, State, Task
from rankpress.schemas.job import Job, JobPage, Links, Progress
from rankpress.schemas.report import (
    EvaluationReport,
    Interval,
    LayerReport,
    Metric,
    RankReport,
    Versions,
)
from rankpress.schemas.request import JobRequest
from rankpress.schemas.upload import Upload

NOW = "2026-01-02T03:04:05Z"


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[["Reply", Seen], None]


@dataclass
class Service:
    """`handlers` are used up one a request; the last one stays."""

    url: str = ""
    handlers: list[Handler] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # bytes after which the next PATCHes are cut

    def next_handler(self) -> Handler:
        return self.handlers.pop(0) if len(self.handlers) > 1 else self.handlers[0]


class Reply(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if self.command == "PATCH" and self.service.cuts:
            length = min(length, self.service.cuts.pop(0))
        body = self.rfile.read(length)
        headers = {k.lower(): v for k, v in self.headers.items()}
        seen = Seen(self.command, self.path, headers, body)
        self.service.seen.append(seen)
        self.service.next_handler()(self, seen)

    do_GET = do_POST = do_DELETE = do_PATCH = do_HEAD = _any

    def send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_head(status, len(content), **headers)
        self.wfile.write(content)

    def send_head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(length)} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_model(self, model: Any, status: int = 200, **headers: str) -> None:
        self.send(
            status, model.model_dump_json().encode(), Content_Type="application/json", **headers
        )

    def cut(self) -> None:
        """The connection ends, whatever was announced."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(*handlers: Handler) -> Iterator[Service]:
    service = Service(handlers=list(handlers))
    kind = type("Handler", (Reply,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # cut connections
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def problem(error: RankpressError, **headers: str) -> Handler:
    def handle(reply: Reply, _seen: Seen) -> None:
        content = error.to_problem().model_dump_json().encode()
        reply.send(error.status, content, Content_Type="application/problem+json", **headers)

    return handle


def accepts_upload(reply: Reply, seen: Seen) -> None:
    upload = Upload(
        id="up_1",
        filename=None,
        size_bytes=len(seen.body),
        sha256=hashlib.sha256(seen.body).hexdigest(),
        format="safetensors",
        tensors=None,
        created_at=NOW,
    )
    reply.send_model(upload, 201)


def resumes(*, lose_last_answer: bool = False, stored: bytearray | None = None) -> Handler:
    """A resumable upload: what came before a cut is kept, and HEAD tells how much that is."""
    kept = bytearray() if stored is None else stored
    length = 0

    def place(complete: bool) -> dict[str, str]:
        return {
            "Upload-Offset": str(len(kept)),
            "Upload-Complete": "?1" if complete else "?0",
        }

    def handle(reply: Reply, seen: Seen) -> None:
        nonlocal length
        if seen.method == "POST":
            length = int(seen.headers["upload-length"])
            reply.send(201, Location="http://elsewhere.example/v1/uploads/up_1")
        elif seen.method == "PATCH" and int(seen.headers["upload-offset"]) != len(kept):
            reply.send(409, **place(False))
        elif seen.method == "PATCH":
            kept.extend(seen.body)
            if len(kept) < length or lose_last_answer:
                reply.cut()
            else:
                accepts_upload(reply, Seen("", "", {}, bytes(kept)))
        elif seen.method == "HEAD":
            reply.send(204, **place(len(kept) == length))
        else:
            accepts_upload(reply, Seen("", "", {}, bytes(kept)))

    return handle


def hangs_up(reply: Reply, _seen: Seen) -> None:
    reply.cut()


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def serves(
    content: bytes, *, cut_after: int | None = None, announced: bytes | None = None
) -> Handler:
    """The weights by Range and If-Range; the connection ends after `cut_after` bytes."""
    whole = content if announced is None else announced
    etag = f'"{hashlib.sha256(whole).hexdigest()}"'

    def handle(reply: Reply, seen: Seen) -> None:
        start = 0
        wanted = seen.headers.get("range", "")
        if wanted and seen.headers.get("if-range") == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        headers = {"ETag": etag, "Repr_Digest": digest(whole)}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        reply.send_head(206 if start else 200, len(rest), **headers)
        if cut_after is None:
            reply.wfile.write(rest)
        else:
            reply.wfile.write(rest[:cut_after])
            reply.cut()

    return handle


def make_job(state: str = "queued", id: str = "j1", **more: Any) -> Job:
    request = JobRequest(model="up_1", threshold=0.9)
    return Job(id=id, state=state, created_at=NOW, request=request, links=Links(self="/"), **more)


def make_report(weights: bytes, **more: Any) -> RankReport:
    """One layer factorised, one kept dense for a reason, names that play with the terminal."""
    layers = (
        LayerReport(
            name="\x1b[31m[red]0.weight",
            shape=(4, 6),
            kind=Kind.MATRIX,
            dtype="float32",
            action=Action.FACTORISED,
            rule=Rule.ENTROPY,
            threshold=0.9,
            rank=2,
            full_rank=4,
            relative_error=0.125,
            parameters_before=24,
            parameters_after=20,
            bytes_before=96,
            bytes_after=80,
        ),
        LayerReport(
            name="2.weight",
            shape=(9, 4),
            kind=Kind.MATRIX,
            dtype="float32",
            action=Action.KEPT_DENSE,
            reason=Reason.OUTPUT_PROTECTED,
            parameters_before=36,
            parameters_after=36,
            bytes_before=144,
            bytes_after=144,
        ),
    )
    metric = Metric(
        name="accuracy",
        dense=0.9,
        compressed=0.89,
        difference=-0.01,
        interval=Interval(low=-0.02, high=0.0, level=0.95, method="mcnemar"),
        higher_is_better=True,
    )
    evaluation = EvaluationReport(
        task=Task.CLASSIFICATION,
        architecture="mlp 6-4-9, relu",
        architecture_assumed=True,
        samples=2000,
        metrics=(metric,),
        device="cpu",
        artifact_sha256="00",
        seconds=1.0,
    )
    values = {
        "job_id": "j1",
        "created_at": NOW,
        "rule": Rule.ENTROPY,
        "threshold": 0.9,
        "protected_output": "2.weight",
        "protected_output_assumed": True,
        "layers": layers,
        "parameters_before": 60,
        "parameters_after": 56,
        "bytes_before": 1240,
        "bytes_after": len(weights),
        "tensor_bytes_before": 240,
        "tensor_bytes_after": 224,
        "input_sha256": ("00",),
        "output_sha256": hashlib.sha256(weights).hexdigest(),
        "output_format": "safetensors",
        "evaluation": evaluation,
        "seconds": {"factorise": 0.5},
        "versions": Versions(rankpress="0", python="3", torch="2", device="cpu"),
    }
    return RankReport(**(values | more))


def whole_service(weights: bytes, report: RankReport | None = None) -> Handler:
    """All that one job needs, from the upload to the download; uploads are up_1, up_2, ..."""
    uploads = 0
    looks = [
        make_job("running", stage="factorise", progress=Progress(done=1, total=2)),
        make_job("running", stage="evaluate", progress=Progress(done=0, total=3)),
        make_job(State.SUCCEEDED, stage="evaluate", progress=Progress(done=3, total=3)),
    ]

    def handle(reply: Reply, seen: Seen) -> None:
        nonlocal uploads
        match seen.method, seen.path.split("?")[0]:
            case "POST", "/v1/uploads":
                uploads += 1
                upload = Upload(
                    id=f"up_{uploads}",
                    filename=None,
                    size_bytes=len(seen.body),
                    sha256=hashlib.sha256(seen.body).hexdigest(),
                    format="safetensors",
                    tensors=None,
                    created_at=NOW,
                )
                reply.send_model(upload, 201)
            case "POST", "/v1/jobs":
                reply.send_model(make_job(), 202)
            case "GET", "/v1/jobs":
                reply.send_model(JobPage(items=(looks[0], looks[2])))
            case "POST", "/v1/jobs/j1/cancel":
                reply.send_model(make_job("canceled"), 202)
            case "GET", "/v1/jobs/j1":
                reply.send_model(looks.pop(0) if len(looks) > 1 else looks[0])
            case "GET", "/v1/jobs/j1/report":
                reply.send_model(report or make_report(weights))
            case "GET", "/v1/jobs/j1/weights":
                serves(weights)(reply, seen)
            case _:
                reply.send(404)

    return handle
