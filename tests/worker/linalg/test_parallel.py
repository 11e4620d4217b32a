from __future__ import annotations

import threading

import pytest
import torch

from rankpress.names import Rule
from rankpress.schemas.request import JobRequest
from tests.worker.spectra import matrix
from worker import cores
from worker.factorise.layer import factorise_layer
from worker.linalg import lapack, residual
from worker.linalg.parallel import Ahead, Task, run_tasks, spread
from worker.read.cost import GROUP_BYTES, STEP_SECONDS, grouped, working_bytes
from worker.read.plan import make_plan
from worker.tensors import StoredTensor


def ignored(_: int) -> None:
    pass


def tasks_of(runs, costs=None, memory=1):
    costs = costs or [1.0] * len(runs)
    return [Task(run=run, cost=cost, memory=memory) for run, cost in zip(runs, costs, strict=True)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_tasks_order(threads: int) -> None:
    counted: list[int] = []
    runs = [lambda i=i: i * i for i in range(20)]
    found = run_tasks(
        tasks_of(runs, [float(i % 7) for i in range(20)]),
        threads=threads,
        memory=100,
        done=counted.append,
    )
    assert found == [i * i for i in range(20)]
    assert sorted(counted) == counted
    assert counted[-1] == 20


def test_the_costliest_starts_first() -> None:
    started: list[int] = []
    runs = [lambda i=i: started.append(i) for i in range(4)]
    run_tasks(tasks_of(runs, [2.0, 9.0, 1.0, 5.0]), threads=1, memory=9, done=ignored)
    assert started == [1, 3, 0, 2]


def test_several_run_at_once() -> None:
    meeting = threading.Barrier(3)  # passed only when three are inside
    runs = [lambda: meeting.wait(timeout=30) for _ in range(3)]
    assert sorted(run_tasks(tasks_of(runs), threads=3, memory=9, done=ignored)) == [0, 1, 2]


@pytest.mark.parametrize(("memory", "most"), [(10, 1), (20, 2), (39, 3), (4, 1)])
def test_memory_in_flight_is_bounded(memory: int, most: int) -> None:
    inside, seen = 0, []
    lock = threading.Lock()

    def run() -> None:
        nonlocal inside
        with lock:
            inside += 1
            seen.append(inside)
        torch.ones(200, 200) @ torch.ones(200, 200)
        with lock:
            inside -= 1

    run_tasks(tasks_of([run] * 12, memory=10), threads=4, memory=memory, done=ignored)
    assert len(seen) == 12
    assert max(seen) <= most


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_out_and_nothing_more_starts(threads: int) -> None:
    started: list[int] = []

    def run(i: int) -> None:
        started.append(i)
        raise MemoryError

    with pytest.raises(MemoryError):
        run_tasks(
            tasks_of([lambda i=i: run(i) for i in range(50)]),
            threads=threads,
            memory=99,
            done=ignored,
        )
    assert len(started) <= threads


def test_an_idle_thread_computes_ahead() -> None:
    where: list[str] = []
    begun = threading.Event()

    def value() -> str:
        where.append(threading.current_thread().name)
        begun.set()
        return "value"

    def layer() -> tuple[str, str, str]:
        ahead = Ahead(value)
        ahead.start()
        ahead.start()
        assert begun.wait(30)
        return ahead.result(), ahead.result(), threading.current_thread().name

    ((first, again, asker),) = run_tasks(tasks_of([layer]), threads=2, memory=9, done=ignored)
    assert first == again == "value"
    assert len(where) == 1
    assert where[0] != asker


@pytest.mark.parametrize("threads", [0, 1])
def test_without_an_idle_thread_the_one_that_asks_computes(threads: int) -> None:
    where: list[str] = []

    def layer() -> str:
        ahead = Ahead(lambda: where.append(threading.current_thread().name) or "value")
        ahead.start()
        assert ahead.result() == ahead.result() == "value"
        return threading.current_thread().name

    if threads:
        (asker,) = run_tasks(tasks_of([layer]), threads=threads, memory=9, done=ignored)
    else:
        asker = layer()
    assert where == [asker]


def test_what_nobody_wants_any_more_is_not_computed() -> None:
    computed: list[int] = []

    def layer() -> None:
        Ahead(lambda: computed.append(1)).start()  # with one thread it cannot have begun

    run_tasks(tasks_of([layer, layer]), threads=1, memory=9, done=ignored)
    assert computed == []


def test_an_error_ahead_is_raised_where_it_is_asked_for() -> None:
    def value() -> str:
        raise lapack.LapackError("no convergence")

    def layer() -> None:
        ahead = Ahead(value)
        ahead.start()
        for _ in range(2):
            with pytest.raises(lapack.LapackError):
                ahead.result()

    run_tasks(tasks_of([layer]), threads=2, memory=9, done=ignored)


def test_torch_has_its_threads_back_and_one_meanwhile() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = run_tasks(tasks_of([torch.get_num_threads] * 2), threads=2, memory=9, done=ignored)
        assert found == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class TestSpread:
    def test_outside_a_crew_in_order(self) -> None:
        assert spread([lambda i=i: i for i in range(5)]) == [0, 1, 2, 3, 4]
        assert spread([]) == []

    def test_an_idle_thread_helps(self) -> None:
        meeting = threading.Barrier(2)
        tiles = [lambda: meeting.wait(timeout=30)] * 2
        (found,) = run_tasks(tasks_of([lambda: spread(tiles)]), threads=2, memory=9, done=ignored)
        assert sorted(found) == [0, 1]

    def test_all_threads_inside_one_at_once_is_no_deadlock(self) -> None:
        def nested(i: int) -> list[list[int]]:
            return spread(
                [lambda j=j: spread([lambda k=k: i + j + k for k in range(4)]) for j in range(4)]
            )

        runs = [lambda i=i: nested(i) for i in range(16)]
        found = run_tasks(tasks_of(runs), threads=4, memory=99, done=ignored)
        assert found == [[[i + j + k for k in range(4)] for j in range(4)] for i in range(16)]

    @pytest.mark.parametrize("threads", [1, 2])
    def test_an_error_in_a_tile_comes_out(self, threads: int) -> None:
        def bad() -> None:
            raise ValueError("tile")

        tiles = [lambda: None, bad, lambda: None]
        with pytest.raises(ValueError, match="tile"):
            run_tasks(tasks_of([lambda: spread(tiles)]), threads=threads, memory=9, done=ignored)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small matrices take the way of large ones."""
    monkeypatch.setattr(lapack, "TILE", 48)
    monkeypatch.setattr(residual, "TILE_ROWS", 32)
    monkeypatch.setattr(residual, "TILED_OPERATIONS", 1)
    monkeypatch.setattr(residual, "BLOCK_ELEMENTS", 1 << 12)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_same_bytes_on_any_number_of_threads(dtype: torch.dtype) -> None:
    shapes = {"a": (200, 120), "b": (120, 200), "c": (150, 150), "d": (40, 30), "e": (3, 130, 70)}
    weights = {
        name: (
            torch.stack([matrix("power", *shape[1:], dtype, seed=i) for i in range(shape[0])])
            if len(shape) == 3
            else matrix("power", *shape, dtype)
        )
        for name, shape in shapes.items()
    }
    stored = [
        StoredTensor(
            name=f"{name}.weight",
            dtype=str(dtype).removeprefix("torch."),
            shape=tuple(w.shape),
            nbytes=w.nbytes,
        )
        for name, w in weights.items()
    ]
    request = JobRequest(model="up_" + "0" * 26, threshold=0.6, protect_output=False)
    plan = make_plan(stored, request)

    def factorised(threads: int):
        runs = [
            lambda name=name, w=w: factorise_layer(w, plan[f"{name}.weight"])
            for name, w in weights.items()
        ]
        return run_tasks(tasks_of(runs), threads=threads, memory=99, done=ignored)

    first, *others = [factorised(threads) for threads in (1, 2, 4, 2)]
    assert all(result.right is not None for result in first)
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert torch.equal(one.right, two.right)
            assert torch.equal(one.left, two.left)
            for s, t in zip(one.singular_values, two.singular_values, strict=True):
                assert (s == t).all()
            assert one.report.relative_error == two.report.relative_error


@pytest.mark.parametrize("shape", [(100, 60), (60, 100), (130, 130)], ids=str)
def test_tiles_add_up_to_the_product(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.setattr(lapack, "TILE", 48)
    rows = matrix("gauss", *shape).numpy()
    for transpose in (False, True):
        wanted = rows @ rows.T if transpose else rows.T @ rows
        gram = np.zeros(wanted.shape, np.float32, order="F")
        lapack.add_gram(gram, rows, transpose=transpose)
        assert np.allclose(np.tril(gram), np.tril(wanted), atol=1e-3)
        assert not np.triu(gram, 48 + 1).any()


class TestGroups:
    def test_of_one_thread_are_of_bounded_work(self) -> None:
        costs = [(str(i), 2.0, 1) for i in range(5)]
        assert grouped(costs) == (("0", "1"), ("2", "3"), ("4",))

    def test_hold_a_layer_for_each_thread(self) -> None:
        costs = [(str(i), 3 * STEP_SECONDS, 1) for i in range(5)]
        assert grouped(costs, threads=2) == (("0", "1"), ("2", "3"), ("4",))

    def test_are_bounded_by_bytes(self) -> None:
        costs = [(str(i), 0.1, GROUP_BYTES // 2 + 1) for i in range(3)]
        assert grouped(costs, threads=8) == (("0",), ("1",), ("2",))

    def test_nothing_makes_none(self) -> None:
        assert grouped([], threads=3) == ()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_memory_of_a_layer_grows_with_what_is_computed(dtype: str) -> None:
    size = {"float32": 4, "bfloat16": 2, "float64": 8}[dtype]
    tensor = StoredTensor(name="w", dtype=dtype, shape=(400, 300), nbytes=400 * 300 * size)
    plan = make_plan([tensor], JobRequest(model="up_" + "0" * 26, rule=Rule.ENTROPY, threshold=0.9))
    found = working_bytes(plan["w"].views, tensor)
    grams = 1 if dtype == "float64" else 3  # float32, and float64 where that decides no rank
    numbers = (grams + 3) * 300 * 300 + 3 * 400 * 300 + (400 * 300 if dtype == "bfloat16" else 0)
    assert found == numbers * max(size, 4)


def test_threads_of_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    assert cores.threads_of_a_job(0, 2) == 4
    assert cores.threads_of_a_job(0, 3) == 2
    assert cores.threads_of_a_job(0, 20) == 1
    assert cores.threads_of_a_job(5, 2) == 5
    for text, wanted in {"150000 100000": 2, "max 100000": 8, "50000 100000": 1, "": 8}.items():
        (tmp_path / "cpu.max").write_text(text)
        assert cores.cores() == wanted
