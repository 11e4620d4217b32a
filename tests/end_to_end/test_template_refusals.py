"""What does not fit, and what means harm: each job fails at the stage read, says why and leaves
nothing, and the worker serves the next."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from safetensors.torch import save_file
from torch import nn

import rankpress
from rankpress import Client
from rankpress.loading import export
from rankpress.names import Stage, State
from rankpress.schemas.job import Job
from tests.end_to_end.processes import Service, running, wait_until

SAMPLES, CLASSES = 12, 4
LIMITS = {"child_memory_bytes": str(2 * 1024**3), "child_cpu_seconds": "40", "child_attempts": "1"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 8)
        self.conv = nn.Conv1d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.5)
        self.hidden = nn.Linear(16, 32)
        self.output = nn.Linear(32, CLASSES)
        self.norm.running_mean.normal_()

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(self.embed(ids).transpose(1, 2))).mean(dim=2) * scale
        return self.output(torch.relu(self.hidden(self.drop(x))))


Tensors = dict[str, torch.Tensor]


def example(rows: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"ids": torch.randint(0, 20, (rows, 6)), "scale": torch.ones(rows, 1)}


def samples() -> Tensors:
    return {**example(SAMPLES), "targets": torch.arange(SAMPLES) % CLASSES}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "net.onnx"
    rankpress.export_template(Net(), example(), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A worker whose compute processes may use little."""
    with running(tmp_path_factory.mktemp("service"), **LIMITS) as service:
        yield service


def submit(
    client: Client,
    folder: Path,
    state: Tensors,
    arrays: Tensors,
    template: bytes,
    **evaluation: Any,
) -> Job:
    save_file(state, folder / "model")
    save_file(arrays, folder / "validation")
    request = {
        "model": client.upload(folder / "model").id,
        "rule": "ratio",
        "threshold": 0.5,
        "evaluation": {
            "validation": client.upload(folder / "validation").id,
            "architecture": {"kind": "template", "template": client.upload_bytes(template).id},
            "latency": False,
            **evaluation,
        },
    }
    return client.submit(**request)


def ended(client: Client, job: Job) -> Job:
    return wait_until(
        lambda: found if (found := client.get(job.id)).state.terminal else None,
        seconds=240,
        what="the job's end",
    )


def refused(
    service: Service,
    folder: Path,
    *,
    state: Tensors | None = None,
    arrays: Tensors | None = None,
    template: bytes,
    **evaluation: Any,
) -> Job:
    """The failed job, once it is sure that it stopped before any factorisation and left nothing."""
    with Client(service.url) as client:
        job = submit(
            client,
            folder,
            state or dict(Net().state_dict()),
            arrays or samples(),
            template,
            **evaluation,
        )
        job = ended(client, job)
        assert job.state is State.FAILED, job
        assert job.stage is Stage.READ
        assert job.error is not None
        assert str(service.settings.data_dir) not in job.error.detail
        assert not [f for f in service.stored() if job.id in f]
        scratch = service.settings.scratch_dir
        wait_until(lambda: not list(scratch.rglob(f"*{job.id}*")), what="the scratch's end")
    return job


def said(job: Job) -> str:
    assert job.error is not None
    assert job.error.detail is not None
    return job.error.detail


def without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: tensor})


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def emptied(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = tensor[:0]


NAN = torch.ones(SAMPLES, 1)
NAN[7] = float("nan")
BEYOND = example(SAMPLES)["ids"]
BEYOND[9, 2] = 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("hidden.weight"), "'hidden.weight', which the model does not hold"),
        (put("extra", torch.ones(3)), "does not use 1 tensors of the model: 'extra'"),
        (put("hidden.bias", torch.ones(33)), "[33] in the model, but float32 [32]"),
        (put("hidden.bias", torch.ones(32).double()), "is float64 [32] in the model, but float32"),
        (put("hidden.bias", torch.ones(32)), "does not give the outputs that the exported model"),
    ],
)
def test_weights_that_do_not_fit(
    limited: Service, good: bytes, tmp_path: Path, change: Any, words: str
) -> None:
    state = dict(Net().state_dict())
    change(state)
    job = refused(limited, tmp_path, state=state, template=good)
    assert job.error is not None
    assert job.error.type.endswith(":evaluation-mismatch")
    assert words in said(job)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (renamed("ids", "tokens"), "no array 'ids', which the model takes; it has "),
        (put("more", torch.ones(SAMPLES)), "arrays that nothing reads: 'more'"),
        (put("ids", samples()["ids"].int()), "'ids' is int32, but the model takes int64"),
        (put("scale", NAN), "'scale' holds nan in sample 7"),
        (put("ids", torch.ones(SAMPLES, 7).long()), "has shape [12, 7], but the model takes"),
        (put("ids", BEYOND), "an index beyond an embedding's rows"),
        (put("targets", torch.arange(SAMPLES)), "holds 4 in sample 4; a class from 0 to 3"),
        (put("targets", torch.ones(SAMPLES)), "'targets' is float32, but the task classification"),
        (put("targets", torch.ones(5).long()), "numbers of samples differ"),
        (without("targets"), "no array 'targets'"),
        (emptied, "no samples"),
    ],
)
def test_data_that_does_not_fit(
    limited: Service, good: bytes, tmp_path: Path, change: Any, words: str
) -> None:
    arrays = samples()
    change(arrays)
    job = refused(limited, tmp_path, arrays=arrays, template=good)
    assert job.error is not None
    assert job.error.type.endswith(":evaluation-mismatch")
    assert words in said(job)


def exported(model: nn.Module, path: Path, *, optimize: bool, rows: int | None = None) -> bytes:
    """As a caller might export by hand: `optimize` is torch's default; `rows` fixes the batch."""
    args = example(rows or 2)
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (),
            kwargs=args,
            dynamo=True,
            optimize=optimize,
            verbose=False,
            opset_version=export.OPSET,
            dynamic_shapes=None if rows else {name: {0: batch} for name in args},
        )
    assert program is not None
    export._empty_weights(onnx_ir, program.model, set(model.state_dict()))
    onnx_ir.save(program.model, path)
    return path.read_bytes()


def test_an_optimised_export(limited: Service, tmp_path: Path) -> None:
    template = exported(Net().eval(), tmp_path / "t", optimize=True)
    detail = said(refused(limited, tmp_path, template=template))
    assert "optimize=True" in detail or "holds values of its own" in detail


def test_an_export_in_training_mode(limited: Service, good: bytes, tmp_path: Path) -> None:
    model = onnx.load_from_string(good)
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    norm.attribute.append(helper.make_attribute("training_mode", 1))
    detail = said(refused(limited, tmp_path, template=model.SerializeToString()))
    assert "is in training mode; export the model after model.eval()" in detail


def test_a_batch_size_that_the_graph_hides(limited: Service, good: bytes, tmp_path: Path) -> None:
    model = onnx.load_from_string(good)
    answer = model.graph.output[0].name
    node = next(node for node in model.graph.node if node.output[0] == answer)
    node.output[0] = "before"
    model.graph.node.append(
        helper.make_node("Constant", [], ["shape"], value_ints=[SAMPLES, CLASSES])
    )
    model.graph.node.append(helper.make_node("Reshape", ["before", "shape"], [answer]))
    del model.metadata_props[:]
    detail = said(refused(limited, tmp_path, template=model.SerializeToString()))
    assert "a size that the export fixed" in detail
    assert "int64 [1, 6]" in detail


def test_a_batch_size_that_the_graph_declares_is_padded_to(
    limited: Service, tmp_path: Path
) -> None:
    template = exported(Net().eval(), tmp_path / "t", optimize=False, rows=5)
    with Client(limited.url) as client:
        job = submit(client, tmp_path, dict(Net().state_dict()), samples(), template)
        assert ended(client, job).state is State.SUCCEEDED
        evaluation = client.report(job.id).evaluation
    assert evaluation is not None
    assert "The template takes batches of exactly 5; the last was padded." in evaluation.notes
    with torch.inference_mode():
        logits = Net().eval()(**example(SAMPLES))
    loss = float(nn.functional.cross_entropy(logits, samples()["targets"]))
    entropy = next(m for m in evaluation.metrics if m.name == "cross_entropy")
    assert entropy.dense == pytest.approx(loss, abs=1e-5)


def outside(model: ModelProto) -> None:
    model.graph.initializer[0].external_data[0].value = "/etc/passwd"


def function(model: ModelProto) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opset = helper.make_opsetid("", 20)
    model.functions.append(helper.make_function("", "F", ["a"], ["b"], body, [opset]))


def endless(model: ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
    model.graph.node.append(helper.make_node("Loop", ["n"], ["out"], body=body))


def branch(model: ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
    model.graph.node.append(
        helper.make_node("If", ["c"], ["out"], then_branch=body, else_branch=body)
    )


def added(model: ModelProto, *nodes: onnx.NodeProto, value: str) -> None:
    """The answer plus the smallest number of `value`, so that it must be computed."""
    answer = model.graph.output[0].name
    last = next(node for node in model.graph.node if node.output[0] == answer)
    last.output[0] = "before"
    model.graph.node.extend(nodes)
    model.graph.node.append(helper.make_node("ReduceMin", [value], ["least"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["before", "least"], [answer]))


def memory_bomb(model: ModelProto) -> None:
    """12 GB that no static check sees: the size comes from the input."""
    added(
        model,
        helper.make_node("ReduceMax", ["scale"], ["one"], keepdims=1),
        helper.make_node("Cast", ["one"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Constant", [], ["count"], value_ints=[3_000_000_000]),
        helper.make_node("Mul", ["whole", "count"], ["size2"]),
        helper.make_node("Reshape", ["size2", "flat"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["huge"]),
        value="huge",
    )
    model.graph.node.insert(0, helper.make_node("Constant", [], ["flat"], value_ints=[1]))


def time_bomb(model: ModelProto) -> None:
    """Days of products: each node is small, and there are many."""
    nodes = [
        helper.make_node("ReduceMax", ["scale"], ["one"], keepdims=0),
        helper.make_node("Constant", [], ["side"], value_ints=[3000, 3000]),
        helper.make_node("Expand", ["one", "side"], ["m0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(20_000)]
    added(model, *nodes, value="m20000")


def nested(model: ModelProto) -> bytes:
    """A graph in an attribute of a node of a graph in an attribute ..., 1,000 deep: more than any
    parser's stack should be asked to hold."""
    inner = b""
    # The fields of a graph's node, an attribute's graph and a node's attribute, from the inside.
    for field in (b"\x0a", b"\x32", b"\x2a") * 1000:
        inner = field + _varint(len(inner)) + inner
    graph = b"\x0a" + _varint(len(inner)) + inner
    return model.SerializeToString() + b"\x3a" + _varint(len(graph)) + graph


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (outside, "names another file than the state_dict"),
        (function, "functions of its own"),
        (endless, "runs a graph within the graph, which has no bound"),
        (branch, "runs a graph within the graph"),
        (nested, "is no ONNX graph"),
        (memory_bomb, "more memory than a job may take"),
        pytest.param(time_bomb, "SIGXCPU", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_harm_is_refused_or_stopped(
    limited: Service, good: bytes, tmp_path: Path, change: Any, words: str
) -> None:
    model = onnx.load_from_string(good)
    made = change(model)
    job = refused(limited, tmp_path, template=made or model.SerializeToString())
    assert words in said(job)
    worker = limited.workers["worker-1"]
    assert worker.poll() is None
    with Client(limited.url) as client:
        following = submit(client, tmp_path, dict(Net().state_dict()), samples(), good)
        assert ended(client, following).state is State.SUCCEEDED
    assert worker.poll() is None
