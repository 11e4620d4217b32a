"""Allocate: from every layer's spectrum to the ranks of all of them, for each result of a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from rankpress.names import Action, OutputLayout, Rule
from rankpress.schemas.manifest import Manifest
from rankpress.schemas.report import LayerReport, Metric, PathPoint
from worker.aware.correction import corrections
from worker.aware.statistics import Statistics
from worker.child.messages import Allocate, AllocateResult, WideLayer
from worker.evaluation.architecture import Network
from worker.evaluation.plan import EvaluationPlan
from worker.evaluation.score import score_pair
from worker.evaluation.weights import Weights
from worker.ranks.allocation import Ranked, Ranker, Unit, WideSpectrum
from worker.ranks.auto import candidates, smallest
from worker.ranks.slices import SlicedParts, described, spectra_of, view_named
from worker.read.plan import Plan
from worker.read.roles import Roles
from worker.tensors import Checkpoint
from worker.write.memory_checkpoint import MemoryCheckpoint
from worker.write.output import plan_output
from worker.write.parts import Parts

Advanced = Callable[[int, int], None]
# By result: the reports of its layers, and sentences; then what the rule auto tried.
Outcome = tuple[list[tuple[LayerReport, ...]], list[tuple[str, ...]], tuple[PathPoint, ...]]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One job's allocation: everything it reads."""

    model: Checkpoint
    plan: Plan
    command: Allocate
    parts: Parts
    statistics: Statistics | None
    evaluation: EvaluationPlan | None
    roles: Roles | None
    device: torch.device

    def run(self, advanced: Advanced) -> AllocateResult:
        """Raises InvalidRequest for a budget that cannot be kept to."""
        started = time.perf_counter()
        request = self.command.inputs.request
        if request.rule is Rule.AUTO:
            results, notes, path = self._auto(advanced)
        else:
            results, notes, path = self._budgets(advanced)
        return AllocateResult(
            layers=results[0],
            others=tuple(results[1:]),
            notes=tuple(notes),
            path=path,
            seconds=time.perf_counter() - started,
        )

    def _budgets(self, advanced: Advanced) -> Outcome:
        request, ranker = self.command.inputs.request, self.ranker()
        found = []
        for i in range(request.results):
            budget = request.budget_of(i)
            assert budget is not None
            pointer = f"/budget/{i}" if isinstance(request.budget, tuple) else "/budget"
            found.append(ranker.for_budget(budget, pointer))
        results = []
        for i, (ranked, _) in enumerate(found):
            results.append(self.layers(ranked.ranks, measured=True))
            advanced(i + 1, len(found))
        notes = [_told(ranked, unit) for ranked, unit in found]
        return results, notes, ()

    def _auto(self, advanced: Advanced) -> Outcome:
        request = self.command.inputs.request
        assert request.evaluation is not None
        assert request.evaluation.max_drop is not None
        score = self._scorer()
        found = smallest(candidates(self.ranker()), score, request.evaluation.max_drop, advanced)
        if found.ranked is None:
            dense: dict[str, int | None] = dict.fromkeys(self._wide)
            told = (
                "Not reached: not even the largest model tried is surely within max_drop on the "
                "samples of the search; every layer stays dense.",
            )
            return [self.layers(dense, measured=True)], [told], found.path
        told = (
            f"{len(found.path)} models were tried, from the largest down; this is the last whose "
            "95 % interval on the samples of the search is within max_drop.",
        )
        return [self.layers(found.ranked.ranks, measured=True)], [told], found.path

    @property
    def _wide(self) -> dict[str, WideLayer]:
        return {layer.name: layer for layer in self.command.factorised.wide}

    def ranker(self) -> Ranker:
        request = self.command.inputs.request
        planned = {p.name: p for p in self.plan.tensors}
        names = {tensor.name for tensor in self.model.tensors}
        new_biases = {
            name: planned[name].views[0].m
            for name in self._wide
            if (keys := planned[name].keys) is not None
            and keys.bias is not None
            and keys.bias[0] not in names
        }
        return Ranker(
            self.plan.tensors,
            [
                WideSpectrum(
                    planned=planned[name],
                    view=view_named(planned[name], wide.kind),
                    singular_values=spectra_of(self.parts, name),
                )
                for name, wide in self._wide.items()
            ],
            aware=request.aware,
            rank_multiple=request.rank_multiple,
            new_biases=new_biases,
        )

    def layers(self, ranks: Mapping[str, int | None], *, measured: bool) -> tuple[LayerReport, ...]:
        """The reports of every candidate at these ranks, in the order of the plan."""
        done = {report.name: report for report in self.command.factorised.layers}
        wide, found = self._wide, []
        for planned in self.plan.tensors:
            name = planned.name
            if name in done:
                found.append(done[name])
            elif name in wide:
                rank = ranks[name]
                tensor = self.model.tensor(name) if measured and rank is not None else None
                found.append(
                    described(planned, wide[name], self.parts, rank, planned.thresholds[0], tensor)
                )
        return tuple(found)

    def _scorer(self) -> Callable[[Ranked], list[Metric]]:
        """Builds each candidate in memory and scores it on the samples of the search."""
        assert self.evaluation is not None
        assert self.roles is not None
        assert self.roles.search is not None
        assert self.command.inputs.validation is not None
        plan = replace(self.evaluation, data=self.roles.search)
        validation = self.command.inputs.validation
        device = plan.architecture.runs_on(self.device)
        dense = plan.architecture.build(Weights(self.model), device)

        def score(ranked: Ranked) -> list[Metric]:
            networks = (dense, self.network(ranked.ranks))
            with torch.inference_mode():
                return score_pair(plan, networks, validation, device, lambda done, total: None)

        return score

    def network(self, ranks: Mapping[str, int | None]) -> Network:
        """The model at these ranks, as it would be read back from its file."""
        assert self.evaluation is not None
        layers = self.layers(ranks, measured=False)
        factorised = {r.name: r for r in layers if r.action is Action.FACTORISED}
        planned = {p.name: p for p in self.plan.tensors}
        corrected = (
            corrections(self.model, planned, factorised, self.statistics)
            if self.statistics is not None
            else {}
        )
        output = plan_output(
            self.model,
            self.plan,
            layers,
            sliced(self.parts, layers),
            OutputLayout.FACTORS,
            corrected,
        )
        weights = Weights(MemoryCheckpoint(output.tensors), output.manifest or Manifest(layers=()))
        architecture = self.evaluation.architecture
        return architecture.build(weights, architecture.runs_on(self.device))


def sliced(parts: Parts, layers: tuple[LayerReport, ...]) -> SlicedParts:
    """The wide factors cut to the ranks of the reports."""
    return SlicedParts(
        parts,
        {
            r.name: (r.kind, r.rank)
            for r in layers
            if r.action is Action.FACTORISED and r.rank is not None
        },
    )


def _told(ranked: Ranked, unit: Unit) -> tuple[str, ...]:
    share = ranked.cost / ranked.whole
    told = f"The ranks take {ranked.cost} of the model's {ranked.whole} {unit} ({share:.2%})."
    if unit is Unit.FLOPS:
        told += " Counted are multiply-adds of one sample, each matrix applied to it once."
    return (told,)
