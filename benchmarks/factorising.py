"""Factorisation of whole layer sets: the engine as a job runs it, its peers, the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from benchmarks import peers
from benchmarks.layersets import LayerSet, NotHere
from benchmarks.measure import Summary, Turn, ratios, summary, take_turns
from rankpress.names import Action
from rankpress.schemas.report import LayerReport
from rankpress.schemas.request import JobRequest
from worker.child.messages import JobInputs, Limits
from worker.device import threads_for
from worker.factorise.layers import factorise_names
from worker.read.opened import Opened
from worker.read.plan import make_plan
from worker.tensors import OutputTensor
from worker.write.memory_checkpoint import MemoryCheckpoint

ENGINE, FLOOR = "rankpress", "two products"
PEERS = ("torch svd", "scipy gesdd", "sklearn randomised", "fasterai")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer set at one threshold. `ratio` is how many times longer the others take; of the
    floor, how many times longer the engine takes than it."""

    layers: str
    real: bool
    is_part: bool  # of another row's layers
    device: str
    threshold: float
    count: int
    factorised: int
    ranks_equal: int
    reference: str
    seconds: dict[str, Summary]
    processor_seconds: dict[str, Summary]
    ratio: dict[str, Summary]
    over_floor: Summary
    missing: dict[str, str] = field(default_factory=dict)


class Engine:
    """The stage factorise over tensors in memory, group by group, without reading and writing."""

    def __init__(self, layers: LayerSet, threshold: float, device: str = "cpu") -> None:
        request = JobRequest(model="benchmark", threshold=threshold, protect_output=False)
        self._inputs = JobInputs(
            request=request, models=(), model_names=(), limits=Limits(device=device)
        )
        outputs = [
            OutputTensor(name=s.name, dtype=s.dtype, shape=s.shape, load=partial(_given, tensor))
            for s, tensor in zip(layers.stored, layers.tensors.values(), strict=True)
        ]
        model = MemoryCheckpoint(outputs)
        plan = make_plan(model.tensors, request, threads=threads_for(self._inputs.limits))
        self._opened = Opened(
            inputs=self._inputs, model=model, plan=plan, evaluation=None, roles=None
        )
        self._device = torch.device(device)
        self.reports: dict[str, LayerReport] = {}

    def run(self) -> None:
        for names in self._opened.plan.groups:
            found = factorise_names(
                self._opened, self._inputs, names, self._device, lambda _done, _of: None
            )
            self.reports.update({report.name: report for report in found.layers})

    @property
    def ranks(self) -> dict[str, int]:
        return {name: r.rank for name, r in self.reports.items() if r.rank is not None}

    @property
    def written(self) -> dict[str, int]:
        return {
            name: rank
            for name, rank in self.ranks.items()
            if self.reports[name].action is Action.FACTORISED
        }


def compare(
    layers: LayerSet, threshold: float, *, rounds: int, against: tuple[str, ...] = PEERS
) -> Row:
    """The engine, its peers and the floor in turns."""
    engine = Engine(layers, threshold)
    engine.run()
    # What the plan leaves alone is nobody's work here.
    matrices = {n: w for n, w in layers.matrices.items() if n in engine.reports}
    ranks = {n: engine.ranks.get(n, 1) for n in matrices}
    contenders: dict[str, Callable[[], object]] = {
        ENGINE: engine.run,
        FLOOR: partial(peers.two_products, matrices, engine.written),
    }
    missing = {}
    for name in against:
        try:
            contenders[name] = _peer(name, matrices, threshold, ranks)
        except NotHere as error:
            missing[name] = str(error)
    turns = take_turns(contenders, rounds=rounds, warm_up=not layers.heavy)
    if layers.heavy:
        reference, exact = "torch svd, float32", peers.torch_svd(matrices, threshold)
    else:
        reference, exact = "float64", peers.exact_ranks(matrices, threshold)
    return _row(layers, threshold, engine, turns, exact, reference, missing)


def compare_on_gpu(layers: LayerSet, threshold: float, *, rounds: int) -> Row:
    """The engine on the CUDA device against cusolver's SVD on the same card."""
    engine = Engine(layers, threshold, device="cuda")
    engine.run()
    matrices = {n: w.cuda() for n, w in layers.matrices.items() if n in engine.reports}

    def waited(run: Callable[[], object]) -> Callable[[], None]:
        def whole() -> None:
            run()
            torch.cuda.synchronize()

        return whole

    contenders = {
        ENGINE: waited(engine.run),
        FLOOR: waited(partial(peers.two_products, matrices, engine.written)),
        "torch svd": waited(partial(_svd_alone, matrices)),
    }
    turns = take_turns(contenders, rounds=rounds)
    exact = peers.exact_ranks({n: w.cpu() for n, w in matrices.items()}, threshold)
    return _row(layers, threshold, engine, turns, exact, "float64", {}, device="cuda")


def _svd_alone(matrices: peers.Matrices) -> None:
    for weight_MN in matrices.values():
        torch.linalg.svd(weight_MN.float(), full_matrices=False)


def _peer(
    name: str, matrices: peers.Matrices, threshold: float, ranks: peers.Ranks
) -> Callable[[], object]:
    match name:
        case "torch svd":
            return partial(peers.torch_svd, matrices, threshold)
        case "scipy gesdd":
            return partial(peers.scipy_gesdd, matrices, threshold)
        case "sklearn randomised":
            return partial(peers.sklearn_randomized, matrices, ranks)
    return partial(peers.fasterai, matrices, peers.fasterai_decomposer())


def _row(
    layers: LayerSet,
    threshold: float,
    engine: Engine,
    turns: dict[str, list[Turn]],
    exact: dict[str, int],
    reference: str,
    missing: dict[str, str],
    *,
    device: str = "cpu",
) -> Row:
    # A convolution may be written in its other view: the rule's rank is of the first.
    compared = {
        name: rank
        for name, rank in engine.ranks.items()
        if name in exact and engine.reports[name].full_rank == _full_rank(layers, name)
    }
    return Row(
        layers=layers.name,
        real=layers.real,
        is_part=layers.is_part,
        device=device,
        threshold=threshold,
        count=len(exact),
        factorised=len(engine.written),
        ranks_equal=sum(exact[name] == rank for name, rank in compared.items())
        + len(exact)
        - len(compared),
        reference=reference,
        seconds={name: summary([t.wall for t in each]) for name, each in turns.items()},
        processor_seconds={
            name: summary([t.processor for t in each]) for name, each in turns.items()
        },
        ratio={
            name: ratios(each, turns[ENGINE])
            for name, each in turns.items()
            if name not in (ENGINE, FLOOR)
        },
        over_floor=ratios(turns[ENGINE], turns[FLOOR]),
        missing=missing,
    )


def _full_rank(layers: LayerSet, name: str) -> int:
    m, n = layers.matrices[name].shape
    return min(m, n)


def _given(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
