from __future__ import annotations

from functools import partial

import pytest
import torch

from rankpress.names import Reason
from rankpress.schemas.request import JobRequest
from tests.worker.spectra import matrix
from worker.child.messages import JobInputs, Limits
from worker.factorise import together
from worker.factorise.layer import factorise_layer_many
from worker.factorise.layers import Group, factorise_names
from worker.factorise.together import NOTHING, shape_by_shape
from worker.factorise.wide import factorise_wide
from worker.linalg import equal_shapes
from worker.read.opened import Opened
from worker.read.plan import make_plan
from worker.tensors import OutputTensor, dtype_name
from worker.write.memory_checkpoint import MemoryCheckpoint

CPU = torch.device("cpu")


def tensors() -> dict[str, torch.Tensor]:
    """Matrices of two shapes, a convolution with two views, experts, and what is not tried."""
    found = {f"square.{i}.weight": matrix("decaying", 64, 64, seed=i) for i in range(5)}
    found |= {f"tall.{i}.weight": matrix("power", 96, 48, seed=i) for i in range(3)}
    found["half.weight"] = matrix("decaying", 64, 64, torch.bfloat16)
    found["zero.weight"] = torch.zeros(64, 64)
    found["conv.weight"] = matrix("decaying", 64, 48 * 9).reshape(64, 48, 3, 3)
    found["experts.weight"] = torch.stack([matrix("decaying", 40, 60, seed=i) for i in range(3)])
    found["small.weight"] = matrix("decaying", 100, 20)
    found["nan.weight"] = matrix("decaying", 64, 64).index_fill(0, torch.tensor([1]), torch.nan)
    found["bias"] = torch.ones(64)
    return found


def opened(values: dict[str, torch.Tensor], device: str = "cpu", **fields: object) -> Opened:
    request = JobRequest.model_validate(
        {"model": "m", "threshold": 0.6, "protect_output": False} | fields
    )
    inputs = JobInputs(
        request=request, models=(), model_names=(), limits=Limits(device=device, threads=2)
    )
    model = MemoryCheckpoint(
        [
            OutputTensor(
                name=name,
                dtype=dtype_name(tensor.dtype),
                shape=tuple(tensor.shape),
                load=partial(values.__getitem__, name),
            )
            for name, tensor in values.items()
        ]
    )
    plan = make_plan(model.tensors, request)
    return Opened(inputs=inputs, model=model, plan=plan, evaluation=None, roles=None)


@pytest.mark.parametrize("numbers", [1 << 27, 64 * 64 * 2, 1])
def test_layers_are_those_of_each_alone(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a call may have."""
    monkeypatch.setattr(together, "BATCH_NUMBERS", numbers)
    values = tensors()
    job = opened(values)
    planned = {p.name: p for p in job.plan.tensors}
    seen = []
    for name, prepared in shape_by_shape(list(values), planned, job.model.tensor, CPU):
        seen.append(name)
        (result,) = factorise_layer_many(values[name], planned[name], prepared=prepared)
        (alone,) = factorise_layer_many(values[name], planned[name])
        fields = {"action", "reason", "rank", "ranks", "kind", "bytes_after", "factor_keys"}
        assert result.report.model_dump(include=fields) == alone.report.model_dump(include=fields)
        error = alone.report.relative_error
        assert result.report.relative_error == (error and pytest.approx(error, rel=1e-4))
        if result.left is not None and alone.left is not None:
            assert result.left.shape == alone.left.shape
        if planned[name].is_candidate and name not in ("zero.weight", "nan.weight", "small.weight"):
            assert set(prepared) == set(planned[name].views)
            assert all(p is not None for matrices in prepared.values() for p in matrices)
    assert sorted(seen) == sorted(values)


def test_a_rank_chosen_later_too() -> None:
    values = {name: t for name, t in tensors().items() if name.startswith(("square", "conv"))}
    job = opened(values, rule="budget", threshold=None, budget={"parameters": 0.5})
    planned = {p.name: p for p in job.plan.tensors}
    for name, prepared in shape_by_shape(list(values), planned, job.model.tensor, CPU):
        wide = factorise_wide(values[name], planned[name], prepared=prepared)
        alone = factorise_wide(values[name], planned[name])
        assert wide.right is not None
        assert alone.right is not None
        assert wide.right.shape == alone.right.shape


def test_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    gram_eigh_together = equal_shapes.gram_eigh_together

    def counted(matrices, dtype):
        asked.append(len(matrices))
        return gram_eigh_together(matrices, dtype)

    monkeypatch.setattr(equal_shapes, "gram_eigh_together", counted)
    monkeypatch.setattr(together, "BATCH_NUMBERS", 64 * 64 * 2)
    values = {f"{i}.weight": matrix("gauss", 64, 64, seed=i) for i in range(5)}
    job = opened(values)
    planned = {p.name: p for p in job.plan.tensors}
    list(shape_by_shape(list(values), planned, job.model.tensor, CPU))
    assert asked == [2, 2, 1]


def test_what_is_not_tried_is_not_loaded() -> None:
    values = {"bias": torch.ones(64), "small.weight": matrix("gauss", 50, 20)}
    job = opened(values)
    planned = {p.name: p for p in job.plan.tensors}
    assert planned["bias"].reason is not None

    def load(name: str) -> torch.Tensor:
        raise AssertionError(name)

    found = list(shape_by_shape(list(values), planned, load, CPU))
    assert found == [("bias", NOTHING), ("small.weight", NOTHING)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_s_group_is_the_cpu_s() -> None:
    def group(device: str) -> Group:
        job = opened(tensors(), device)
        return factorise_names(
            job, job.inputs, job.plan.groups[0], torch.device(device), lambda done, of: None
        )

    found, wanted = group("cuda"), group("cpu")
    assert [r.name for r in found.layers] == [r.name for r in wanted.layers]
    for report, reference in zip(found.layers, wanted.layers, strict=True):
        assert (report.rank, report.action, report.reason) == (
            reference.rank,
            reference.action,
            reference.reason,
        )
        if report.relative_error is not None:
            assert report.relative_error == pytest.approx(reference.relative_error, rel=1e-3)
    assert Reason.NON_FINITE in {report.reason for report in found.layers}
