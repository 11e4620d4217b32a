"""A large model's layers, spread over all workers: a workflow for each group, on a queue of its
own, since children on their parent's queue could wait for the place that the parent holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import structlog
from dbos import DBOS, SetEnqueueOptions, SetWorkflowID, WorkflowHandleAsync

from rankpress.names import Stage
from rankpress.service.settings import Settings
from rankpress.service.spec import LAYER_QUEUE, JobSpec, workflow_id
from worker.child.messages import FactoriseResult
from worker.jobs.run import Resources, Run

FEWEST_GROUPS = 4  # below it, a second worker's start costs more than it brings
Groups = Sequence[tuple[str, ...]]


class GroupWorkflow(Protocol):
    async def __call__(
        self, raw: dict[str, Any], group: int, names: list[str]
    ) -> dict[str, Any]: ...


class Fanout:
    """Decides, spreads, gathers. `workflow` is `factorise_group` as DBOS registered it."""

    def __init__(self, settings: Settings, workflow: GroupWorkflow) -> None:
        self._settings = settings
        self._workflow = workflow

    def pays(self, groups: Groups) -> bool:
        return self._settings.fan_out and len(groups) >= FEWEST_GROUPS

    async def gather(self, run: Run, groups: Groups) -> list[FactoriseResult]:
        """The results in the order of the groups, whoever computed them."""
        # Their spans hang below the job's, also on other workers.
        trace = run.resources.tracing.here() or run.spec.trace
        raw = run.spec.model_copy(update={"trace": trace}).model_dump(mode="json")
        parent = workflow_id(run.spec.tenant, run.spec.job_id)
        handles: list[WorkflowHandleAsync[dict[str, Any]]] = []
        for group, names in enumerate(groups):
            with SetWorkflowID(f"{parent}:{group}"), SetEnqueueOptions(priority=1):
                handles.append(
                    await DBOS.enqueue_workflow_async(
                        LAYER_QUEUE, self._workflow, raw, group, list(names)
                    )
                )
        results: list[FactoriseResult] = []
        done, total = 0, sum(len(names) for names in groups)
        try:
            for handle, names in zip(handles, groups, strict=True):
                results.append(FactoriseResult.model_validate(await handle.get_result()))
                done += len(names)
                await run.note(Stage.FACTORISE, done, total, force=True)
        except Exception:
            await DBOS.cancel_workflows_async([h.get_workflow_id() for h in handles])
            raise
        return results


async def factorise_group(
    resources: Resources, raw: dict[str, Any], group: int, names: list[str]
) -> dict[str, Any]:
    """The child workflow. The compute process stays for the job's next group here, and goes when
    none has come for a while."""
    spec = JobSpec.model_validate(raw)
    with structlog.contextvars.bound_contextvars(
        job_id=spec.job_id, request_id=spec.request_id, group=group
    ):
        await asyncio.to_thread(resources.pool.begin, spec.job_id)
        try:
            run = Run(resources, spec)
            result = await run.step(
                "factorise",
                FactoriseResult,
                lambda: run.factorise(group, tuple(names), 0, len(names)),
                group,
            )
        finally:
            resources.pool.leave(spec.job_id)
    return result.model_dump(mode="json")
