"""Jobs: submit, look, wait, list, cancel, delete, report."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from rankpress.client import answers
from rankpress.client.effects import Call, Flow, Sleep
from rankpress.client.errors import JobCanceled, TimedOut
from rankpress.client.retry import RetryPolicy, send
from rankpress.errors import InternalError, from_problem
from rankpress.names import State
from rankpress.schemas.job import Job, JobPage
from rankpress.schemas.report import RankReport
from rankpress.schemas.request import JobRequest
from rankpress.schemas.spectrum import SpectrumDocument
from rankpress.schemas.upload import Upload

JobProgress = Callable[[Job], None]

HOLD_SECONDS = 20.0
# With a progress callback the server's answer is wanted sooner than the job's end.
HOLD_WITH_PROGRESS_SECONDS = 1.0


def job_path(job_id: str, *rest: str) -> str:
    return "/".join(("/v1/jobs", quote(job_id, safe=""), *rest))


def upload_path(upload_id: str) -> str:
    return f"/v1/uploads/{quote(upload_id, safe='')}"


def request_of(request: JobRequest | None, fields: dict[str, Any]) -> JobRequest:
    """Raises `InvalidRequest` with pointers, as the server would."""
    if request is not None:
        if fields:
            raise TypeError("pass a JobRequest or its fields, not both")
        return request
    try:
        return JobRequest.model_validate(fields)
    except ValidationError as error:
        raise answers.invalid_request(error) from error


def submit(request: JobRequest, *, idempotency_key: str | None, policy: RetryPolicy) -> Flow[Job]:
    """Always with a key, so that a submit whose answer was lost is not made twice."""
    call = Call(
        method="POST",
        path="/v1/jobs",
        headers={
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key or str(uuid.uuid4()),
        },
        content=request.model_dump_json(exclude_unset=True).encode(),
    )
    return answers.parse((yield from send(call, policy)), Job)


def get(job_id: str, *, policy: RetryPolicy, hold_seconds: float = 0.0) -> Flow[Job]:
    headers = {"Prefer": f"wait={hold_seconds:g}"} if hold_seconds else {}
    call = Call(method="GET", path=job_path(job_id), headers=headers, hold_seconds=hold_seconds)
    return answers.parse((yield from send(call, policy)), Job)


def wait(
    job_id: str,
    *,
    timeout: float | None,
    on_progress: JobProgress | None,
    policy: RetryPolicy,
    clock: Callable[[], float] = time.monotonic,
) -> Flow[Job]:
    """The job once it has succeeded. Raises its problem when it failed, `JobCanceled`, and
    `TimedOut` after `timeout` seconds (the job goes on)."""
    longest = HOLD_SECONDS if on_progress is None else HOLD_WITH_PROGRESS_SECONDS
    deadline = None if timeout is None else clock() + timeout
    pause_seconds = 0.25
    seen: Job | None = None
    while True:
        asked_at = clock()
        left = longest if deadline is None else max(0.0, deadline - asked_at)
        held = float(int(min(longest, left)))
        job = yield from get(job_id, policy=policy, hold_seconds=held)
        if on_progress is not None and job != seen:
            on_progress(job)
        seen = job
        if job.state.terminal:
            return ended(job)
        now = clock()
        if deadline is not None and now >= deadline:
            raise TimedOut(f"job {job_id} is still {job.state} after {timeout:g} s; it goes on")
        if held == 0 or now - asked_at < held:
            # Answered before it had to be: this server does not hold answers. Do not hammer it.
            yield Sleep(pause_seconds if deadline is None else min(pause_seconds, deadline - now))
            pause_seconds = min(pause_seconds * 1.5, 5.0)


def ended(job: Job) -> Job:
    """A terminal job that succeeded; the others raise."""
    if job.state is State.CANCELED:
        raise JobCanceled(f"job {job.id} was canceled")
    if job.state is State.FAILED:
        if job.error is None:
            raise InternalError(f"job {job.id} failed and the service does not say why")
        raise from_problem(job.error)
    return job


def page(
    *, state: State | None, label: str | None, limit: int, cursor: str | None, policy: RetryPolicy
) -> Flow[JobPage]:
    given = {"state": state, "label": label, "limit": str(limit), "cursor": cursor}
    params = {k: str(v) for k, v in given.items() if v is not None}
    call = Call(method="GET", path="/v1/jobs", params=params)
    return answers.parse((yield from send(call, policy)), JobPage)


def cancel(job_id: str, *, policy: RetryPolicy) -> Flow[Job]:
    call = Call(method="POST", path=job_path(job_id, "cancel"))
    return answers.parse((yield from send(call, policy)), Job)


def delete(path: str, *, policy: RetryPolicy) -> Flow[None]:
    answers.check((yield from send(Call(method="DELETE", path=path), policy)))


def result_params(result: int) -> dict[str, str]:
    """Nothing for the first result, which every job has."""
    return {"result": str(result)} if result else {}


def report(job_id: str, *, result: int = 0, policy: RetryPolicy) -> Flow[RankReport]:
    call = Call(
        method="GET",
        path=job_path(job_id, "report"),
        params=result_params(result),
        headers={"Accept": "application/json"},
    )
    return answers.parse((yield from send(call, policy)), RankReport)


def spectrum(job_id: str, *, policy: RetryPolicy) -> Flow[SpectrumDocument]:
    call = Call(
        method="GET", path=job_path(job_id, "spectrum"), headers={"Accept": "application/json"}
    )
    return answers.parse((yield from send(call, policy)), SpectrumDocument)


def get_upload(upload_id: str, *, policy: RetryPolicy) -> Flow[Upload]:
    call = Call(method="GET", path=upload_path(upload_id))
    return answers.parse((yield from send(call, policy)), Upload)
