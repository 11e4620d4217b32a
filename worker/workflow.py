"""A job's story, as durable steps: read, factorise group by group, write, evaluate, report; before
them what the request asks for besides, calibrate, allocate and refit.

A step that has ended is never run again: after a crash the job goes on at the first that has not.
Steps hold metadata; tensors lie in the store under keys of the job and the step.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import structlog
from dbos import PortableWorkflowError

from rankpress.errors import TYPE_PREFIX, Unavailable
from rankpress.names import Stage
from rankpress.schemas.report import LayerReport
from rankpress.service import keys
from rankpress.service.spec import JobSpec
from worker.child.messages import (
    Allocate,
    AllocateResult,
    Calibrate,
    CalibrateResult,
    Evaluate,
    EvaluateResult,
    FactoriseResult,
    Read,
    ReadResult,
    Refit,
    RefitResult,
    Write,
    WriteResult,
    joined,
)
from worker.jobs.fanout import Fanout
from worker.jobs.report import Produced, ReportResult, compose, summary
from worker.jobs.run import Resources, Run
from worker.read.calibrates import calibrates

log = structlog.get_logger(__name__)


async def compress(resources: Resources, fanout: Fanout, raw: dict[str, Any]) -> dict[str, Any]:
    """The workflow. Returns what the API needs of the result; raises the job's problem."""
    spec = JobSpec.model_validate(raw)
    with structlog.contextvars.bound_contextvars(job_id=spec.job_id, request_id=spec.request_id):
        log.info("job_started")
        await asyncio.to_thread(resources.pool.begin, spec.job_id)
        story = Story(resources, spec, fanout)
        resources.metrics.running.inc()
        try:
            with story.span("job"):
                output = await story.tell()
        except PortableWorkflowError as error:
            slug = error.name.removeprefix(TYPE_PREFIX)
            log.warning("job_failed", problem=slug, detail=error.message)
            resources.metrics.failed(slug)
            raise
        else:
            log.info("job_succeeded")
            return output
        finally:
            resources.metrics.running.dec()
            await asyncio.to_thread(story.close)


class Story(Run):
    """One run of one job from its upload to its report."""

    def __init__(self, resources: Resources, spec: JobSpec, fanout: Fanout) -> None:
        super().__init__(resources, spec)
        self.fanout = fanout

    async def tell(self) -> dict[str, Any]:
        read = await self.step("read", ReadResult, self.read)
        if calibrates(self.spec.request):
            await self.step("calibrate", CalibrateResult, self.calibrate)
        factorised = await self.factorise_all(read)
        allocated = None
        if self.spec.request.is_allocated:
            allocated = await self.step(
                "allocate", AllocateResult, lambda: self.allocate(read, factorised)
            )
        chosen = allocated or factorised
        results = [
            await self.result(i, read, chosen.of(i)) for i in range(self.spec.request.results)
        ]
        summary = await self.step(
            "report",
            ReportResult,
            lambda: self.report(read, factorised.seconds, allocated, results),
        )
        first, *_ = summary.results
        return {
            "weights": first.weights.model_dump(mode="json"),
            "parameters_before": summary.parameters_before,
            "parameters_after": first.parameters_after,
            "results": [r.model_dump(mode="json") for r in summary.results],
        }

    async def result(
        self, result: int, read: ReadResult, layers: tuple[LayerReport, ...]
    ) -> Produced:
        """One of the job's results: refitted where that is asked for, written, and scored as it was
        read back."""
        refitted = evaluated = None
        if self.spec.request.refit:
            refitted = await self.step(
                "refit", RefitResult, lambda: self.refit(read, layers, result)
            )
            layers = refitted.layers
        written = await self.step("write", WriteResult, lambda: self.write(read, layers, result))
        if self.spec.request.evaluation is not None:
            evaluated = await self.step(
                "evaluate", EvaluateResult, lambda: self.evaluate(written, result)
            )
        return Produced(refitted=refitted, written=written, evaluated=evaluated)

    async def read(self) -> ReadResult:
        inputs = await self.begin(Stage.READ)
        read = await self.call(Read(inputs=inputs), ReadResult, Stage.READ)
        # Recorded with the plan, so that a restart under other settings goes on as it began.
        return read.model_copy(update={"fan_out": self.fanout.pays(read.groups)})

    async def calibrate(self) -> CalibrateResult:
        inputs = await self.begin(Stage.FACTORISE)
        result = await self.call(Calibrate(inputs=inputs), CalibrateResult, Stage.FACTORISE)
        await asyncio.to_thread(self.files.put_statistics)
        return result

    async def factorise_all(self, read: ReadResult) -> FactoriseResult:
        """Every group, here one after the other or over all workers."""
        results = self.spec.request.results
        if read.fan_out:
            return joined(await self.fanout.gather(self, read.groups), results)
        found: list[FactoriseResult] = []
        done, total = 0, sum(len(names) for names in read.groups)
        for group, names in enumerate(read.groups):

            async def factorise(
                group: int = group, names: tuple[str, ...] = names, done: int = done
            ) -> FactoriseResult:
                return await self.factorise(group, names, done, total)

            found.append(await self.step("factorise", FactoriseResult, factorise, group))
            done += len(names)
        return joined(found, results)

    async def parts(self, read: ReadResult) -> tuple[Path, ...]:
        groups = range(len(read.groups))
        return tuple([await asyncio.to_thread(self.files.fetch_part, group) for group in groups])

    async def allocate(self, read: ReadResult, factorised: FactoriseResult) -> AllocateResult:
        inputs = await self.begin(Stage.FACTORISE)
        command = Allocate(inputs=inputs, factorised=factorised, parts=await self.parts(read))
        return await self.call(command, AllocateResult, Stage.FACTORISE)

    async def refit(
        self, read: ReadResult, layers: tuple[LayerReport, ...], result: int
    ) -> RefitResult:
        inputs = await self.begin(Stage.FACTORISE)
        command = Refit(
            inputs=inputs,
            result=result,
            layers=layers,
            parts=await self.parts(read),
            out=self.files.refit(result),
        )
        refitted = await self.call(command, RefitResult, Stage.FACTORISE)
        await asyncio.to_thread(self.files.put_refit, result)
        return refitted

    async def write(
        self, read: ReadResult, layers: tuple[LayerReport, ...], result: int
    ) -> WriteResult:
        inputs = await self.begin(Stage.WRITE)
        command = Write(
            inputs=inputs,
            result=result,
            layers=layers,
            parts=await self.parts(read),
            refit=(
                await asyncio.to_thread(self.files.fetch_refit, result)
                if self.spec.request.refit
                else None
            ),
            out=self.files.weights(result),
            spectrum=self.files.spectrum if result == 0 else None,
        )
        written = await self.call(command, WriteResult, Stage.WRITE)
        if result == 0:
            await asyncio.to_thread(self.files.put_spectrum)
        await asyncio.to_thread(self.files.put_weights, result)
        return written

    async def evaluate(self, written: WriteResult, result: int) -> EvaluateResult:
        inputs = await self.begin(Stage.EVALUATE)
        artifact = await asyncio.to_thread(self.files.fetch_weights, result)
        command = Evaluate(inputs=inputs, artifact=artifact, artifact_sha256=written.sha256)
        return await self.call(command, EvaluateResult, Stage.EVALUATE)

    async def report(
        self,
        read: ReadResult,
        factorise_seconds: float,
        allocated: AllocateResult | None,
        results: list[Produced],
    ) -> ReportResult:
        def write_reports() -> ReportResult:
            reports = compose(self.files, read, factorise_seconds, allocated, results)
            for report in reports:
                key = keys.job_report(self.spec.tenant, self.spec.job_id, report.result)
                self.resources.store.put_model(key, report)
            self.resources.metrics.succeeded(reports[0])
            return summary(reports, [result.written for result in results])

        return await asyncio.to_thread(write_reports)

    def close(self) -> None:
        """However the job ended, only its results stay. Not run when the worker itself dies."""
        self.resources.pool.end(self.spec.job_id)
        try:
            if not self._is_another_s():
                self.files.delete_parts()
        except Unavailable as error:
            log.warning("parts_left_behind", detail=error.detail)

    def _is_another_s(self) -> bool:
        """Whether another worker has taken the job up while this one was cut off from the
        database: what lies in the store is its own now."""
        spec = self.spec
        return self.resources.engine.is_run_elsewhere(
            spec.tenant, spec.job_id, self.resources.settings.worker_name
        )
