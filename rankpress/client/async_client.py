"""The asynchronous client: the same flows as `Client`, carried out on an event loop."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread
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


class AsyncClient:
    """`Client`, to be awaited, on asyncio or trio. Files are read, hashed and written in threads;
    callbacks are called on the event loop."""

    def __init__(
        self,
        base_url: str = base.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = base.DEFAULT_TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._policy = retry or RetryPolicy()
        self._timeout = timeout
        arguments = base.client_arguments(base_url, api_key, timeout, verify)
        with mapped():
            self._http = httpx.AsyncClient(**arguments, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def upload(
        self,
        source: uploads.Source,
        *,
        filename: str | None = None,
        progress: ByteProgress | None = None,
    ) -> Upload:
        """See `Client.upload`."""
        flow = uploads.upload(source, filename=filename, progress=progress, policy=self._policy)
        return await self._run(flow)

    async def upload_bytes(
        self, data: bytes, *, filename: str | None = None, progress: ByteProgress | None = None
    ) -> Upload:
        flow = uploads.upload_bytes(data, filename=filename, progress=progress, policy=self._policy)
        return await self._run(flow)

    async def get_upload(self, upload_id: str) -> Upload:
        return await self._run(jobs.get_upload(upload_id, policy=self._policy))

    async def delete_upload(self, upload_id: str) -> None:
        await self._run(jobs.delete(jobs.upload_path(upload_id), policy=self._policy))

    async def submit(
        self,
        request: JobRequest | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """See `Client.submit`."""
        checked = jobs.request_of(request, fields)
        flow = jobs.submit(checked, idempotency_key=idempotency_key, policy=self._policy)
        return await self._run(flow)

    async def get(self, job_id: str) -> Job:
        return await self._run(jobs.get(job_id, policy=self._policy))

    async def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        on_progress: JobProgress | None = None,
    ) -> Job:
        """See `Client.wait`."""
        flow = jobs.wait(job_id, timeout=timeout, on_progress=on_progress, policy=self._policy)
        return await self._run(flow)

    async def jobs(
        self, *, state: State | None = None, label: str | None = None, page_size: int = 50
    ) -> AsyncIterator[Job]:
        """See `Client.jobs`."""
        cursor: str | None = None
        while True:
            flow = jobs.page(
                state=state, label=label, limit=page_size, cursor=cursor, policy=self._policy
            )
            page = await self._run(flow)
            for job in page.items:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def cancel(self, job_id: str) -> Job:
        """Raises `Conflict` when the job has ended."""
        return await self._run(jobs.cancel(job_id, policy=self._policy))

    async def delete(self, job_id: str) -> None:
        """The record and what the job stored."""
        await self._run(jobs.delete(jobs.job_path(job_id), policy=self._policy))

    async def report(self, job_id: str, *, result: int = 0) -> RankReport:
        """`result`: which one, of a job that has several."""
        return await self._run(jobs.report(job_id, result=result, policy=self._policy))

    async def spectrum(self, job_id: str) -> SpectrumDocument:
        return await self._run(jobs.spectrum(job_id, policy=self._policy))

    async def download(
        self,
        job_id: str,
        path: str | os.PathLike[str],
        *,
        result: int = 0,
        progress: ByteProgress | None = None,
    ) -> Path:
        """See `Client.download`."""
        url = jobs.job_path(job_id, "weights")
        flow = downloads.download(
            url,
            Path(path),
            params=jobs.result_params(result),
            progress=progress,
            policy=self._policy,
        )
        return await self._run(flow)

    async def compress(
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
        """See `Client.compress`."""
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
        return await self._run(flow)

    async def frontier(
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
        """See `Client.frontier`."""
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
        return await self._run(flow)

    async def _run(self, flow: Flow[T]) -> T:
        try:
            effect = next(flow)
            while True:
                try:
                    result = await self._carry_out(effect)
                except Exception as error:  # noqa: BLE001 - handed to the flow, which decides
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            flow.close()

    async def _carry_out(self, effect: Effect) -> Any:
        match effect:
            case Call():
                with mapped():
                    return await self._send(effect)
            case Sleep(seconds):
                return await anyio.sleep(seconds)
            case Blocking(work):
                return await anyio.to_thread.run_sync(work)

    async def _send(self, call: Call) -> Answer:
        content = call.content if call.body is None else _counted(call)
        arguments = base.request_arguments(call, self._timeout)
        request = self._http.build_request(**arguments, content=content)
        response = await self._http.send(request, stream=True)
        try:
            answer = base.head_of(response)
            if call.sink is None or not base.takes_stream(call, answer):
                content = await response.aread()
                return Answer(status=answer.status, headers=answer.headers, content=content)
            await anyio.to_thread.run_sync(call.sink.open, answer)
            async for chunk in response.aiter_raw():
                await anyio.to_thread.run_sync(call.sink.write, chunk)
                if call.progress is not None:
                    call.progress(len(chunk))
            return answer
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()


async def _counted(call: Call) -> AsyncIterator[bytes]:
    assert call.body is not None
    chunks: Iterator[bytes] = call.body.chunks()
    while (chunk := await anyio.to_thread.run_sync(next, chunks, None)) is not None:
        yield chunk
        if call.progress is not None:
            call.progress(len(chunk))
