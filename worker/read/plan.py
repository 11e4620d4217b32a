"""The plan of a job: what is tried with every tensor, and why not, before any value is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rankpress.errors import InvalidRequest
from rankpress.names import Kind, Reason, Rule
from rankpress.schemas.request import JobRequest, LayerOverride
from worker.ranks.rules import break_even_rank, speed_rank
from worker.read.candidates import reason_against, tensor_kind
from worker.read.cost import STEP_SECONDS, estimated_seconds, grouped
from worker.read.factor_keys import FactorKeys, factor_keys
from worker.read.matrix_view import MatrixView, candidate_views
from worker.read.output_layer import OutputLayer, guess_output_layer
from worker.tensors import StoredTensor


@dataclass(frozen=True, kw_only=True)
class PlannedTensor:
    """What is tried with one tensor. `reason` is set when nothing is: it passes unchanged.

    `rule` and `thresholds` choose the rank unless `rank` fixes it; one threshold gives one result.
    `views` are the matrix views to try, the one that the rule reads first. `estimated_seconds` is
    the decomposition's expected time on one core.
    """

    tensor: StoredTensor
    kind: Kind
    reason: Reason | None = None
    views: tuple[MatrixView, ...] = ()
    rule: Rule | None = None
    thresholds: tuple[float | None, ...] = (None,)
    rank: int | None = None
    rank_multiple: int = 1
    min_speedup: float = 1.0
    keys: FactorKeys | None = None
    estimated_seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def is_candidate(self) -> bool:
        return self.reason is None

    def highest_rank(self, view: MatrixView) -> int:
        """The largest rank that is worth writing: for the size, and for the speed asked for."""
        return min(break_even_rank(view.m, view.n), speed_rank(view.m, view.n, self.min_speedup))

    def too_high(self, view: MatrixView, rank: int) -> Reason | None:
        """Why factors of this rank are not written; None where they may be."""
        if rank > break_even_rank(view.m, view.n):
            return Reason.ABOVE_BREAK_EVEN
        return Reason.BELOW_MIN_SPEEDUP if rank > self.highest_rank(view) else None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every tensor in the file's order; `groups` are consecutive candidates, a step each."""

    tensors: tuple[PlannedTensor, ...]
    groups: tuple[tuple[str, ...], ...]
    output_layer: OutputLayer | None

    def __getitem__(self, name: str) -> PlannedTensor:
        return next(p for p in self.tensors if p.name == name)


def make_plan(
    tensors: Sequence[StoredTensor],
    request: JobRequest,
    output_layer: OutputLayer | None = None,
    *,
    thresholds: Sequence[float] = (),
    known: Collection[str] | None = None,
    corrected: Collection[str] = (),
    graph_names: Collection[str] = (),
    threads: int = 1,
    step_seconds: float = STEP_SECONDS,
) -> Plan:
    """The plan for the tensors of a file. The same input gives the same plan.

    `output_layer` is what an architecture says; without one it is guessed, when the request asks
    for its protection. `thresholds` ask for a result each, in place of the request's own. `known`
    names the layers whose second moments are known, where that is needed (None: it is not);
    `corrected` those whose bias takes up the mean of their error; `graph_names` are the names in
    the graph that the tensors are part of, if they are; `threads` is how many layers are
    factorised at once, `step_seconds` about how long a group takes them.
    Raises InvalidRequest for a `layers` entry that matches no tensor or contradicts the rule.
    """
    overrides = _overrides(tensors, request)
    protected = output_layer if request.protect_output else None
    if protected is None and request.protect_output:
        matrices = [t for t in tensors if len(t.shape) == 2 and reason_against(t) is None]
        protected = guess_output_layer(matrices)
    # A tied tensor is stored once: what holds for one of its names holds for all.
    dense = {t.alias_of for t in tensors if t.alias_of and overrides[t.name].keep_dense}
    owner = {t.name: t.alias_of or t.name for t in tensors}
    output = owner.get(protected.name) if protected else None

    several: tuple[float | None, ...] = tuple(thresholds) or tuple(
        request.threshold_of(i) for i in range(request.results)
    )
    taken = {t.name for t in tensors} | set(graph_names)
    planned = []
    for tensor in tensors:
        override = overrides[tensor.name]
        plan = _plan_tensor(
            tensor,
            request,
            override,
            several,
            keep_dense=override.keep_dense or tensor.name in dense,
            is_output=tensor.name == output,
            is_known=known is None or tensor.name in known,
            adds_bias=tensor.name in corrected,
            in_graph=bool(graph_names),
            taken=taken,
        )
        if plan.keys is not None:
            taken.update(plan.keys.new)
        planned.append(plan)
    candidates = [
        (p.name, p.estimated_seconds, p.tensor.nbytes * len(p.thresholds))
        for p in planned
        if p.is_candidate
    ]
    groups = grouped(candidates, threads=threads, step_seconds=step_seconds)
    return Plan(tensors=tuple(planned), groups=groups, output_layer=protected)


def _plan_tensor(
    tensor: StoredTensor,
    request: JobRequest,
    override: LayerOverride,
    thresholds: tuple[float | None, ...],
    *,
    keep_dense: bool,
    is_output: bool,
    is_known: bool,
    adds_bias: bool,
    in_graph: bool,
    taken: set[str],
) -> PlannedTensor:
    kind = tensor_kind(tensor)
    reason = reason_against(tensor)
    views = () if reason else candidate_views(tensor.name, tensor.shape)
    rule = override.rule or request.rule
    keys = None
    if reason is None and is_output:
        reason = Reason.OUTPUT_PROTECTED
    if reason is None and keep_dense:
        reason = Reason.KEEP_DENSE_REQUESTED
    if reason is None and all(break_even_rank(v.m, v.n) == 0 for v in views):
        reason = Reason.ABOVE_BREAK_EVEN
    if reason is None and not is_known:
        reason = Reason.NO_STATISTICS
    if reason is None:
        keys = factor_keys(tensor.name, kind, taken, adds_bias=adds_bias, in_graph=in_graph)
        reason = None if keys else Reason.KEY_COLLISION
    return PlannedTensor(
        tensor=tensor,
        kind=kind,
        reason=reason,
        views=views,
        rule=rule if views else None,
        thresholds=_thresholds(rule, thresholds, override) if views else (None,),
        rank=override.rank,
        rank_multiple=request.rank_multiple,
        min_speedup=override.min_speedup or request.min_speedup,
        keys=keys,
        estimated_seconds=0.0 if reason else sum(estimated_seconds(v) for v in views),
    )


def _thresholds(
    rule: Rule, wanted: tuple[float | None, ...], override: LayerOverride
) -> tuple[float | None, ...]:
    """One for each result of the job: an override's holds for all of them."""
    if override.threshold is not None:
        return (override.threshold,) * len(wanted)
    return wanted if rule.uses_threshold else (None,) * len(wanted)


def _overrides(tensors: Sequence[StoredTensor], request: JobRequest) -> dict[str, LayerOverride]:
    """For each tensor the first `layers` entry whose glob matches its name, else one that says
    nothing. Matching is case-sensitive. Raises InvalidRequest with the entry's pointer."""
    for i, entry in enumerate(request.layers):
        if not any(fnmatchcase(t.name, entry.match) for t in tensors):
            raise InvalidRequest.at(
                f"/layers/{i}/match",
                f"{entry.match!r} matches none of the {len(tensors)} tensors; "
                "a glob is matched against whole tensor names",
            )
        _check_entry(i, entry, request)
    nothing = LayerOverride(match="*")
    return {
        t.name: next((e for e in request.layers if fnmatchcase(t.name, e.match)), nothing)
        for t in tensors
    }


def _check_entry(i: int, entry: LayerOverride, request: JobRequest) -> None:
    """Raises InvalidRequest for fields that contradict each other or the rule."""
    rule = entry.rule or request.rule
    if entry.keep_dense and (entry.rule or entry.threshold or entry.rank):
        raise InvalidRequest.at(f"/layers/{i}/keep_dense", "goes with no rule, threshold or rank")
    if entry.rank is not None and (entry.rule or entry.threshold):
        raise InvalidRequest.at(f"/layers/{i}/rank", "fixes the rank: leave out rule and threshold")
    if entry.rule in (Rule.BUDGET, Rule.AUTO) and entry.rule is not request.rule:
        raise InvalidRequest.at(f"/layers/{i}/rule", f"{entry.rule} is a rule of the whole model")
    if entry.threshold is not None and not rule.uses_threshold:
        raise InvalidRequest.at(f"/layers/{i}/threshold", f"not used by the rule {rule}")
    needs = rule.uses_threshold and not entry.keep_dense and entry.rank is None
    if needs and entry.threshold is None and request.threshold is None:
        raise InvalidRequest.at(f"/layers/{i}/threshold", f"required by the rule {rule}")
