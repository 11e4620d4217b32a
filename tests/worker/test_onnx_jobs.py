"""Jobs on whole ONNX models: what comes back, what is refused before anything is factorised, and
that the file read back is what is scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from torch.nn import functional

from rankpress.errors import CorruptFile, EvaluationMismatch, InvalidRequest, UnsupportedFormat
from rankpress.formats.manifest import read_manifest
from rankpress.loading import load_compressed, read_tensors
from rankpress.loading.errors import LoadError
from rankpress.loading.verifying import NOT_THE_NODES, verify
from rankpress.names import Action, Reason
from tests.onnxmodels import CLASSES, answers, arrays, graph, low, normal, two_layers
from tests.worker.pipelinekit import Done, run
from worker.evaluation.template import parse

ROWS = 40


def saved(folder: Path, model: ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def validation(folder: Path, inputs: np.ndarray | None = None, **more: np.ndarray) -> Path:
    path = folder / "validation"
    held = {"inputs": normal(ROWS, 32, seed=5) if inputs is None else inputs}
    save_file({**held, "targets": np.arange(len(held["inputs"])) % CLASSES, **more}, path)
    return path


def job(folder: Path, model: ModelProto | Path, **fields: Any) -> Done:
    path = model if isinstance(model, Path) else saved(folder, model)
    wanted = {"rule": "ratio", "threshold": 0.15, **fields}
    files = {"validation": folder / "validation"} if "evaluation" in wanted else None
    (done,) = run(folder, path, files=files, **wanted)
    return done


def evaluated(folder: Path, model: ModelProto | Path, **fields: Any) -> Done:
    if not (folder / "validation").exists():
        validation(folder)
    asked = {"validation": "v", "architecture": {"kind": "onnx"}, "latency": False}
    return job(folder, model, evaluation={**asked, **fields.pop("evaluation", {})}, **fields)


def test_the_file_that_comes_back_is_what_is_scored(tmp_path: Path) -> None:
    model = two_layers()
    done = evaluated(tmp_path, model, evaluation={"latency": True})
    made = onnx.load(done.path)
    assert [n.op_type for n in made.graph.node] == ["Gemm", "Gemm", "Relu", "MatMul"]
    report = done.evaluation
    assert report is not None
    assert report.architecture == "onnx, opset 20, 3 nodes, output output"
    assert not report.architecture_assumed
    inputs, targets = normal(ROWS, 32, seed=5), torch.arange(ROWS) % CLASSES
    entropy = next(m for m in report.metrics if m.name == "cross_entropy")
    for graph_, found in ((model, entropy.dense), (made, entropy.compressed)):
        logits = torch.from_numpy(answers(graph_, inputs)).double()
        assert found == pytest.approx(float(functional.cross_entropy(logits, targets)), abs=1e-6)
    assert report.flops_per_sample_dense == 2 * 48 * (32 + CLASSES)
    rank = done.layers["hidden.weight"].rank
    assert report.flops_per_sample_compressed == 2 * (rank * (32 + 48) + 48 * CLASSES)
    assert report.latency


def test_the_same_input_gives_the_same_bytes_and_all_else_is_copied(tmp_path: Path) -> None:
    model = two_layers()
    model.metadata_props.add(key="made", value="by hand")
    model.graph.doc_string = "a note"
    first = job(tmp_path, model).path.read_bytes()
    second = job(tmp_path, model).path.read_bytes()
    assert first == second
    assert len(first) < len(model.SerializeToString())
    made = onnx.load_from_string(first)
    assert made.producer_name == "tests"
    assert made.graph.doc_string == "a note"
    assert [e.key for e in made.metadata_props] == ["made", "rankpress"]
    kept = {t.name: t.SerializeToString() for t in made.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name != "hidden.weight":
            assert kept[tensor.name] == tensor.SerializeToString()
    assert made.SerializeToString() == first  # as protobuf itself writes it


def test_the_head_is_protected_by_the_graph_even_without_samples(tmp_path: Path) -> None:
    from rankpress.schemas.request import JobRequest
    from worker.child.messages import JobInputs, Limits, Read
    from worker.pipeline import Pipeline

    model = two_layers()
    # Wider than the layer before it: shapes alone would not tell.
    request = JobRequest.model_validate({"model": "m", "threshold": 0.9})
    path = saved(tmp_path, model)
    inputs = JobInputs(request=request, models=(path,), model_names=(None,), limits=Limits())
    read = Pipeline().read(Read(inputs=inputs))
    assert read.protected_output == "head"
    assert not read.protected_output_assumed


def test_a_file_that_would_grow_comes_back_as_it_was(tmp_path: Path) -> None:
    weights = {"w": low(6, 5, 1)}
    nodes = [helper.make_node("MatMul", ["inputs", "w"], ["output"])]
    model = graph(nodes, weights, takes=("batch", 6), gives=("batch", 5))
    done = job(tmp_path, model, protect_output=False)
    assert done.layers["w"].reason is Reason.WHOLE_MODEL_NOT_SMALLER
    assert done.path.read_bytes() == model.SerializeToString()


def test_a_model_without_anything_to_factorise_comes_back_as_it_was(tmp_path: Path) -> None:
    model = graph([helper.make_node("Relu", ["inputs"], ["output"])], {}, gives=("batch", 32))
    assert job(tmp_path, model).path.read_bytes() == model.SerializeToString()


def test_what_was_compressed_here_may_be_compressed_again(tmp_path: Path) -> None:
    once = job(tmp_path, two_layers(), rule="ratio", threshold=0.4)
    copy = saved(tmp_path, onnx.load(once.path), "once.onnx")
    twice = evaluated(tmp_path, copy, rule="entropy", threshold=0.6)
    made = onnx.load(twice.path)
    onnx.checker.check_model(made, full_check=True)
    names = [name for n in made.graph.node for name in n.output]
    assert len(set(names)) == len(names)
    assert "hidden.weight.right.left" in arrays(made) or "hidden.weight.left.left" in arrays(made)
    assert [e.key for e in made.metadata_props] == ["rankpress"]
    manifest = read_manifest(twice.path)
    assert manifest is not None
    assert all(layer.name.startswith("hidden.weight.") for layer in manifest.layers)


def test_names_that_the_graph_has_already_are_left_alone(tmp_path: Path) -> None:
    model = two_layers()
    for n in model.graph.node:
        renamed = {"h": "hidden.weight.left", "r": "hidden.weight.left/rank"}
        n.input[:] = [renamed.get(name, name) for name in n.input]
        n.output[:] = [renamed.get(name, name) for name in n.output]
    done = job(tmp_path, model)
    assert done.layers == {}
    assert done.path.read_bytes() == model.SerializeToString()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "h"
    model.graph.node[1].output[0] = model.graph.node[2].input[0] = "h/rank"
    made = onnx.load(job(tmp_path, model).path)
    onnx.checker.check_model(made, full_check=True)
    assert made.graph.node[0].output[0] == "h/rank2"


@pytest.mark.parametrize("opset", range(13, 25))
def test_every_opset_that_is_taken(opset: int, tmp_path: Path) -> None:
    done = evaluated(tmp_path, two_layers(opset))
    assert done.layers["hidden.weight"].action is Action.FACTORISED
    onnx.checker.check_model(onnx.load(done.path), full_check=True)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_halves_stay_halves_in_the_file_and_are_scored_in_float32(
    kind: int, tmp_path: Path
) -> None:
    model = two_layers()
    held = arrays(model)
    del model.graph.initializer[:]
    for name, array in held.items():
        packed = torch.from_numpy(array.copy())
        dtype = torch.float16 if kind == TensorProto.FLOAT16 else torch.bfloat16
        raw = packed.to(dtype).view(torch.int16).numpy().tobytes()
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=raw)
        model.graph.initializer.append(tensor)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    half = torch.from_numpy(normal(ROWS, 32, seed=5)).to(dtype)
    from safetensors.torch import save_file as save_torch

    save_torch({"inputs": half, "targets": torch.arange(ROWS) % CLASSES}, tmp_path / "validation")
    done = evaluated(tmp_path, model)
    made = onnx.load(done.path)
    assert {t.data_type for t in made.graph.initializer} == {kind}
    assert done.evaluation is not None
    assert any("both models were evaluated in float32" in n for n in done.evaluation.notes)
    tensors = read_tensors(done.path)
    assert tensors["hidden.weight.left"].dtype is dtype


def test_weights_that_are_listed_as_inputs_too(tmp_path: Path) -> None:
    """As older exporters write them: a caller may give another weight, and seldom does."""
    model = two_layers()
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    done = evaluated(tmp_path, model)
    made = onnx.load(done.path)
    onnx.checker.check_model(made, full_check=True)
    assert [value.name for value in made.graph.input] == ["inputs", "hidden.bias", "head"]


def test_the_dense_layout_keeps_the_graph(tmp_path: Path) -> None:
    model = two_layers()
    done = evaluated(tmp_path, model, output={"layout": "dense"})
    made = onnx.load(done.path)
    assert made.graph.node == model.graph.node
    changed = arrays(made)["hidden.weight"]
    assert np.linalg.matrix_rank(changed) == done.layers["hidden.weight"].rank
    assert done.evaluation is not None
    assert "multiplied back by request" in (done.layers["hidden.weight"].note or "")


def test_several_results_and_the_rules_of_the_whole_model(tmp_path: Path) -> None:
    validation(tmp_path)
    path = saved(tmp_path, two_layers())
    several = run(tmp_path, path, threshold=(0.5, 0.9))
    assert len({done.path.read_bytes() for done in several}) == 2
    (budget,) = run(tmp_path, path, rule="budget", budget={"parameters": 0.5})
    assert budget.path.stat().st_size < path.stat().st_size
    asked = {
        "validation": "v",
        "architecture": {"kind": "onnx"},
        "latency": False,
        "max_drop": {"accuracy": 0.9},
    }
    files = {"validation": tmp_path / "validation"}
    (auto,) = run(tmp_path, path, files=files, rule="auto", evaluation=asked)
    assert auto.tried
    assert auto.tried[0].accepted
    onnx.checker.check_model(onnx.load(auto.path), full_check=True)


def test_verify_recomputes_the_certificate(tmp_path: Path) -> None:
    path = saved(tmp_path, two_layers())
    done = job(tmp_path, path)
    found = verify(done.path, path, (path,))
    assert found.ok, found.problems
    assert [layer.name for layer in found.layers] == ["hidden.weight"]
    assert found.unchanged == 2
    assert found.notes == (NOT_THE_NODES,)
    model = onnx.load(path)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(normal(48, seed=8), "hidden.bias"))
    other = saved(tmp_path, model, "other.onnx")
    assert not verify(done.path, other, (other,)).ok
    with pytest.raises(LoadError, match="which ONNX Runtime runs as it is"):
        load_compressed(torch.nn.Linear(2, 2), done.path)


def outside(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def attribute_outside(model: ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="state_dict")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))


def domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def function(model: ModelProto) -> None:
    relu = [helper.make_node("Relu", ["a"], ["b"])]
    opset = helper.make_opsetid("", 20)
    model.functions.append(helper.make_function("", "F", ["a"], ["b"], relu, [opset]))


def endless(model: ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
    model.graph.node.append(helper.make_node("Loop", ["n"], ["out"], body=body))


def sparse(model: ModelProto) -> None:
    model.graph.sparse_initializer.add()


def old(model: ModelProto) -> None:
    model.opset_import[0].version = 9


def old_ir(model: ModelProto) -> None:
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )


def unknown_operator(model: ModelProto) -> None:
    model.graph.node[1].op_type = "NoSuch"


def no_nodes(model: ModelProto) -> None:
    del model.graph.node[:]


def training(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Dropout", ["r", "ratio", "training"], ["out"]))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (outside, UnsupportedFormat, "leaves out the values of 1 initializers"),
        (attribute_outside, UnsupportedFormat, "names a file for its attribute"),
        (domain, UnsupportedFormat, "The model uses the operator domain 'com.microsoft'"),
        (function, UnsupportedFormat, "functions of its own"),
        (endless, UnsupportedFormat, "runs a graph within the graph"),
        (sparse, UnsupportedFormat, "sparse initializers"),
        (old, UnsupportedFormat, "The model is of opset 9; 13 to 24 are run"),
        (old_ir, UnsupportedFormat, "IR version 3, of before 2019"),
        (unknown_operator, CorruptFile, "The model is no valid ONNX graph"),
        (no_nodes, CorruptFile, "holds no graph with nodes and an output"),
        (training, UnsupportedFormat, "is in training mode"),
    ],
)
def test_a_model_that_is_not_run(
    change: Callable[[ModelProto], None], error: type[Exception], words: str, tmp_path: Path
) -> None:
    model = two_layers()
    change(model)
    with pytest.raises(error, match=words):
        job(tmp_path, model)


def test_a_graph_of_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "MAX_BYTES", 10_000)
    monkeypatch.setattr("worker.checkpoint.onnx_in.MAX_BYTES", 10_000)
    value = numpy_helper.from_array(normal(64, 64))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=value),
        helper.make_node("MatMul", ["inputs", "w"], ["output"]),
    ]
    model = graph(nodes, {}, takes=("batch", 64), gives=("batch", 64))
    with pytest.raises(UnsupportedFormat, match="Export them as initializers"):
        job(tmp_path, model)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"output": {"format": "torch"}}, "/output/format"),
        ({"weights_path": "model"}, "/weights_path"),
        ({"aware": "inputs", "statistics": "s"}, "/aware: not for an ONNX model"),
    ],
)
def test_a_request_that_does_not_go_with_a_graph(
    fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "statistics").write_bytes(b"")
    with pytest.raises(InvalidRequest, match=words):
        run(tmp_path, saved(tmp_path, two_layers()), threshold=0.9, **fields)


@pytest.mark.parametrize(
    ("inputs", "more", "words"),
    [
        (normal(ROWS, 31), {}, r"'inputs' has shape \[40, 31\], but the model takes"),
        (normal(ROWS, 32).astype(np.float64), {}, "'inputs' is float64, but the model takes"),
        (None, {"extra": normal(ROWS)}, "arrays that nothing reads: 'extra'"),
        (None, {"targets": np.full(ROWS, 7)}, "a class from 0 to 4"),
    ],
)
def test_samples_that_do_not_fit(
    inputs: np.ndarray | None, more: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    validation(tmp_path, inputs, **more)
    with pytest.raises(EvaluationMismatch, match=words):
        evaluated(tmp_path, two_layers())


@pytest.mark.parametrize("kind", ["mlp", "factory"])
def test_another_kind_of_architecture_does_not_go_with_it(kind: str, tmp_path: Path) -> None:
    name = {"name": "torchvision"} if kind == "factory" else {}
    with pytest.raises(EvaluationMismatch, match="the model is an ONNX graph"):
        evaluated(tmp_path, two_layers(), evaluation={"architecture": {"kind": kind, **name}})


def test_the_kind_onnx_goes_with_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": normal(8, 4)}, path)
    with pytest.raises(EvaluationMismatch, match="the model is no ONNX graph"):
        evaluated(tmp_path, path)
