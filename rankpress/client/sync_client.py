"""The synchronous client."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from rankpress.client import base, compressing, downloads, jobs, uploads
from rankpress.client import frontier as frontiers
from rankpress.client.compressing import Compressed, Watchers
from rankpress.client.effects import Answer, Blocking, ByteProgress, Call, Effect, Flow, Sleep
from rankpress.client.errors import mapped
from rankpress.client.frontier import Frontier
from rankpress.client.jobs import JobProgress
from rankpress.client.retry import RetryPolicy
from rankpress.client.scoring import Samples, Scoring
from rankpress.names import State
from rankpress.schemas.job import Job
from rankpress.schemas.report import RankReport
from rankpress.schemas.request import JobRequest
from rankpress.schemas.spectrum import SpectrumDocument
from rankpress.schemas.upload import Upload

T = TypeVar("T")


class Client:
    """Talks to a Rankpress service.

    >>> with Client("http://127.0.0.1:8000") as client:
    ...     model = client.upload("net.safetensors")
    ...     job = client.submit(model=model.id, threshold=0.9)
    ...     client.wait(job.id)
    ...     client.download(job.id, "net-small.safetensors")

    Every error is a `rankpress.errors.RankpressError`: the server's problems by their types, and
    those of `rankpress.client.errors`. `timeout` (seconds) holds for connecting and for each
    read and write. Calls that fail on the way, or that the server asks to send later, are tried
    again as `retry` says.
    """

    def __init__(
        self,
        base_url: str = base.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = base.DEFAULT_TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._policy = retry or RetryPolicy()
        self._timeout = timeout
        arguments = base.client_arguments(base_url, api_key, timeout, verify)
        with mapped():
            self._http = httpx.Client(**arguments, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def upload(
        self,
        source: uploads.Source,
        *,
        filename: str | None = None,
        progress: ByteProgress | None = None,
    ) -> Upload:
        """Streams a file by its path, or an open binary file from where it stands. It is read
        twice: the SHA-256 sent first lets the server check what it received."""
        flow = uploads.upload(source, filename=filename, progress=progress, policy=self._policy)
        return self._run(flow)

    def upload_bytes(
        self, data: bytes, *, filename: str | None = None, progress: ByteProgress | None = None
    ) -> Upload:
        flow = uploads.upload_bytes(data, filename=filename, progress=progress, policy=self._policy)
        return self._run(flow)

    def get_upload(self, upload_id: str) -> Upload:
        return self._run(jobs.get_upload(upload_id, policy=self._policy))

    def delete_upload(self, upload_id: str) -> None:
        self._run(jobs.delete(jobs.upload_path(upload_id), policy=self._policy))

    def submit(
        self,
        request: JobRequest | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Submits a `JobRequest`, or its fields. Raises `InvalidRequest` with pointers for wrong
        fields without asking the server. One key submits one job, however often it is sent."""
        checked = jobs.request_of(request, fields)
        flow = jobs.submit(checked, idempotency_key=idempotency_key, policy=self._policy)
        return self._run(flow)

    def get(self, job_id: str) -> Job:
        return self._run(jobs.get(job_id, policy=self._policy))

    def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        on_progress: JobProgress | None = None,
    ) -> Job:
        """The job once it has succeeded. Raises its problem as its type when it failed,
        `JobCanceled`, and `TimedOut` after `timeout` seconds (the job goes on)."""
        flow = jobs.wait(job_id, timeout=timeout, on_progress=on_progress, policy=self._policy)
        return self._run(flow)

    def jobs(
        self, *, state: State | None = None, label: str | None = None, page_size: int = 50
    ) -> Iterator[Job]:
        """Newest first; pages are fetched as they are needed. `label` is `key:value`."""
        cursor: str | None = None
        while True:
            flow = jobs.page(
                state=state, label=label, limit=page_size, cursor=cursor, policy=self._policy
            )
            page = self._run(flow)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def cancel(self, job_id: str) -> Job:
        """Raises `Conflict` when the job has ended."""
        return self._run(jobs.cancel(job_id, policy=self._policy))

    def delete(self, job_id: str) -> None:
        """The record and what the job stored."""
        self._run(jobs.delete(jobs.job_path(job_id), policy=self._policy))

    def report(self, job_id: str, *, result: int = 0) -> RankReport:
        """`result`: which one, of a job that has several."""
        return self._run(jobs.report(job_id, result=result, policy=self._policy))

    def spectrum(self, job_id: str) -> SpectrumDocument:
        """The singular values of a succeeded job's layers."""
        return self._run(jobs.spectrum(job_id, policy=self._policy))

    def download(
        self,
        job_id: str,
        path: str | os.PathLike[str],
        *,
        result: int = 0,
        progress: ByteProgress | None = None,
    ) -> Path:
        """The compressed weights, to `path`: verified by SHA-256 and renamed into place when all
        is there; a cut connection is resumed."""
        url = jobs.job_path(job_id, "weights")
        flow = downloads.download(
            url,
            Path(path),
            params=jobs.result_params(result),
            progress=progress,
            policy=self._policy,
        )
        return self._run(flow)

    def compress(
        self,
        model: Any,
        *,
        validation: Samples | None = None,
        example_inputs: Any = None,
        template: str | os.PathLike[str] | None = None,
        out: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        watch: Watchers | None = None,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Compressed:
        """Upload, submit, wait, report and download in one call: `compress("net.pt",
        threshold=0.9)`. A path gives a file at `out` (beside the model when left out); an
        nn.Module has its layers swapped in place and is returned as `.model`; a state_dict
        returns the compressed tensors there. `fields` and `options` are those of `JobRequest`.

        `validation` is a file, or its arrays by name. With `example_inputs`, as
        `rankpress.export_template` takes them, a module's architecture is exported and sent too,
        so that any model can be scored: `compress(net, threshold=0.9, validation={"inputs": x,
        "targets": y}, example_inputs=x[:2])`. `template` is a file exported before."""
        flow = compressing.compress(
            model,
            fields={**(options or {}), **fields},
            scoring=Scoring(
                validation=validation, template=template, example_inputs=example_inputs
            ),
            out=out,
            timeout=timeout,
            watch=watch or Watchers(),
            policy=self._policy,
        )
        return self._run(flow)

    def frontier(
        self,
        model: Any,
        *,
        thresholds: Sequence[float] | None = None,
        budgets: Sequence[float | Mapping[str, float]] | None = None,
        validation: Samples | None = None,
        example_inputs: Any = None,
        template: str | os.PathLike[str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        watch: Watchers | None = None,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Frontier:
        """Several sizes of one model from one job, for the choice between them:
        `frontier("net.pt", thresholds=(0.5, 0.8, 0.9), validation="val.npz")`. `budgets` are
        shares of the parameters, or `{"bytes": 0.4}`, `{"flops": 0.4}`. `folder` receives a file
        for each; `fields` and `options` as for `compress`."""
        flow = frontiers.frontier(
            model,
            fields=frontiers.request_fields(thresholds, budgets, {**(options or {}), **fields}),
            scoring=Scoring(
                validation=validation, template=template, example_inputs=example_inputs
            ),
            folder=None if folder is None else Path(folder),
            timeout=timeout,
            watch=watch or Watchers(),
            policy=self._policy,
        )
        return self._run(flow)

    def _run(self, flow: Flow[T]) -> T:
        """Carries a flow's effects out, one after the other."""
        try:
            effect = next(flow)
            while True:
                try:
                    result = self._carry_out(effect)
                except Exception as error:  # noqa: BLE001 - handed to the flow, which decides
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            flow.close()

    def _carry_out(self, effect: Effect) -> Any:
        match effect:
            case Call():
                with mapped():
                    return self._send(effect)
            case Sleep(seconds):
                return time.sleep(seconds)
            case Blocking(work):
                return work()

    def _send(self, call: Call) -> Answer:
        content = call.content if call.body is None else _counted(call)
        arguments = base.request_arguments(call, self._timeout)
        request = self._http.build_request(**arguments, content=content)
        response = self._http.send(request, stream=True)
        try:
            answer = base.head_of(response)
            if call.sink is None or not base.takes_stream(call, answer):
                content = response.read()
                return Answer(status=answer.status, headers=answer.headers, content=content)
            call.sink.open(answer)
            for chunk in response.iter_raw():
                call.sink.write(chunk)
                if call.progress is not None:
                    call.progress(len(chunk))
            return answer
        finally:
            response.close()


def _counted(call: Call) -> Iterator[bytes]:
    assert call.body is not None
    for chunk in call.body.chunks():
        yield chunk
        if call.progress is not None:
            call.progress(len(chunk))
