"""Each way in which a graph uses a weight: two nodes take the place of one, or the graph multiplies
the factors back; the answers are those of left @ right in the original graph, to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper

from rankpress.formats.manifest import read_manifest
from rankpress.names import Action, Reason
from tests.onnxmodels import Array, answers, arrays, graph, normal
from tests.worker.pipelinekit import Done, run
from worker.evaluation.weights import multiply_back

FIELDS: dict[str, Any] = {"rule": "ratio", "threshold": 0.5, "protect_output": False}


def compressed(folder: Path, model: ModelProto, **fields: Any) -> tuple[Done, ModelProto]:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (done,) = run(folder, path, **{**FIELDS, **fields})
    made = onnx.load(done.path)
    onnx.checker.check_model(made, full_check=True)
    return done, made


def multiplied(original: ModelProto, done: Done) -> ModelProto:
    """The original graph with left @ right, in float64, in the place of each factorised weight."""
    manifest = read_manifest(done.path)
    assert manifest is not None
    held = arrays(onnx.load(done.path))
    found = ModelProto()
    found.CopyFrom(original)
    layers = {layer.name: layer for layer in manifest.layers}
    for tensor in found.graph.initializer:
        if tensor.name in layers:
            layer = layers[tensor.name]
            sides = (
                torch.from_numpy(held[key].copy()).double() for key in (layer.left, layer.right)
            )
            product = multiply_back(layer, *sides).float().numpy()
            tensor.CopyFrom(numpy_helper.from_array(product, tensor.name))
    return found


def rank_deficient(*shape: int, k: int = 2, seed: int = 3) -> Array:
    rows, columns = shape[0], int(np.prod(shape[1:]))
    product = normal(rows, k, seed=seed) @ normal(k, columns, seed=seed + 1)
    return (product + 0.1 * normal(rows, columns, seed=seed + 2)).reshape(shape).astype(np.float32)


class Form(NamedTuple):
    nodes: Sequence[NodeProto]
    weight: Array
    others: dict[str, Array]
    takes: tuple[int | str, ...]
    gives: tuple[int | str, ...]
    operators: tuple[str, ...]


def node(kind: str, takes: Sequence[str], gives: Sequence[str] = ("output",), **attributes: Any):
    return helper.make_node(kind, list(takes), list(gives), **attributes)


BATCH = "batch"
IMAGE = (BATCH, 6, 9, 8)
KERNEL = rank_deficient(10, 6, 3, 3)
FORMS: dict[str, Form] = {
    "matmul": Form(
        [node("MatMul", ["inputs", "w"])],
        *(rank_deficient(32, 24), {}, (BATCH, 7, 32), (BATCH, 7, 24), ("MatMul", "MatMul")),
    ),
    "matmul from the left": Form(
        [node("MatMul", ["w", "inputs"])],
        *(rank_deficient(24, 32), {}, (BATCH, 32, 3), (BATCH, 24, 3), ("MatMul", "MatMul")),
    ),
    "matmul of experts": Form(
        [node("MatMul", ["inputs", "w"])],
        np.stack([rank_deficient(36, 40, seed=i) for i in range(3)]),
        *({}, (BATCH, 3, 2, 36), (BATCH, 3, 2, 40), ("MatMul", "MatMul")),
    ),
    "gemm": Form(
        [node("Gemm", ["inputs", "w", "b"], alpha=0.5, beta=2.0)],
        rank_deficient(32, 24),
        *({"b": normal(24)}, (BATCH, 32), (BATCH, 24), ("Gemm", "Gemm")),
    ),
    "gemm transposed": Form(
        [node("Gemm", ["inputs", "w", "b"], transA=1, transB=1, alpha=0.5)],
        rank_deficient(24, 32),
        *({"b": normal(24)}, (32, 4), (4, 24), ("Gemm", "Gemm")),
    ),
    "transposed first": Form(
        [node("Transpose", ["w"], ["t"]), node("MatMul", ["inputs", "t"])],
        *(rank_deficient(24, 32), {}, (BATCH, 32), (BATCH, 24)),
        ("Transpose", "Transpose", "MatMul", "MatMul"),
    ),
    "looked up and multiplied": Form(
        [
            node("Cast", ["inputs"], ["ids"], to=7),
            node("Gather", ["w", "ids"], ["rows"]),
            node("Transpose", ["w"], ["t"], perm=[1, 0]),
            node("MatMul", ["rows", "t"]),
        ],
        *(rank_deficient(30, 16), {}, (BATCH, 4), (BATCH, 4, 30)),
        ("Cast", "Gather", "MatMul", "Transpose", "Transpose", "MatMul", "MatMul"),
    ),
    "conv": Form(
        [node("Conv", ["inputs", "w", "b"], strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2])],
        *(KERNEL, {"b": normal(10)}, IMAGE, (BATCH, 10, 5, 5), ("Conv", "Conv")),
    ),
    "conv with automatic pads": Form(
        [node("Conv", ["inputs", "w"], auto_pad="SAME_UPPER", kernel_shape=[3, 3])],
        *(rank_deficient(40, 6, 3, 3), {}, IMAGE, (BATCH, 40, 9, 8), ("Conv", "Conv")),
    ),
    "one-dimensional conv": Form(
        [node("Conv", ["inputs", "w"])],
        *(rank_deficient(40, 12, 3), {}, (BATCH, 12, 9), (BATCH, 40, 7), ("Conv", "Conv")),
    ),
    "grouped conv": Form(
        [node("Conv", ["inputs", "w"], group=2)],
        rank_deficient(20, 3, 3, 3),
        *({}, IMAGE, (BATCH, 20, 7, 6), ()),
    ),
    "transposed conv": Form(
        [node("ConvTranspose", ["inputs", "w"])],
        *(rank_deficient(6, 20, 3, 3), {}, IMAGE, (BATCH, 20, 11, 10), ()),
    ),
    "used twice": Form(
        [
            node("MatMul", ["inputs", "w"], ["h"]),
            node("MatMul", ["h", "w"], ["g"]),
            node("Shape", ["w"], ["s"], start=1),
            node("ConstantOfShape", ["s"], ["zeros"]),
            node("Add", ["g", "zeros"]),
        ],
        *(rank_deficient(32, 32), {}, (BATCH, 32), (BATCH, 32)),
        ("MatMul", "MatMul", "MatMul", "MatMul", "Constant", "ConstantOfShape", "Add"),
    ),
    "sliced": Form(
        [
            node("Slice", ["w", "from", "to"], ["part"]),
            node("MatMul", ["inputs", "part"]),
        ],
        rank_deficient(32, 48),
        {"from": np.array([0, 8]), "to": np.array([32, 40])},
        *((BATCH, 32), (BATCH, 32), ("MatMul", "Slice", "MatMul")),
    ),
    "product with itself": Form(
        [node("MatMul", ["w", "w"], ["square"]), node("MatMul", ["inputs", "square"])],
        *(rank_deficient(32, 32), {}, (BATCH, 32), (BATCH, 32), ("MatMul", "MatMul", "MatMul")),
    ),
    "gemm from the left": Form(
        [node("Gemm", ["w", "v"], ["h"]), node("MatMul", ["inputs", "h"])],
        rank_deficient(32, 40),
        {"v": normal(40, 1)},
        *((BATCH, 32), (BATCH, 1), ("MatMul", "Gemm", "MatMul")),
    ),
}


BACK = {*("grouped conv", "transposed conv", "sliced", "product with itself", "gemm from the left")}


def samples(form: Form) -> Array:
    shape = [3 if size == BATCH else int(size) for size in form.takes]
    if form.nodes[0].op_type == "Cast":
        return np.arange(np.prod(shape)).reshape(shape).astype(np.float32)
    return normal(*shape, seed=9)


@pytest.mark.parametrize("name", FORMS)
def test_the_answers_are_those_of_the_product(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    model = graph(form.nodes, {"w": form.weight, **form.others}, takes=form.takes, gives=form.gives)
    done, made = compressed(tmp_path, model)
    assert done.layers["w"].action is Action.FACTORISED
    held = arrays(made)
    assert {"w.left", "w.right"} <= held.keys()
    assert "w" not in held
    if form.operators:
        assert tuple(n.op_type for n in made.graph.node) == form.operators
    inputs = samples(form)
    wanted = answers(multiplied(model, done), inputs)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(answers(made, inputs), wanted, rtol=0, atol=1e-5 * scale)
    assert np.abs(answers(model, inputs) - wanted).max() > 1e-4 * scale  # it did lose something
    assert ("multiplied back inside the graph" in (done.layers["w"].note or "")) is (name in BACK)


def test_a_square_kernel_is_split_along_its_sides(tmp_path: Path) -> None:
    """A view that needs fewer numbers for no more error: 1 x kw, then kh x 1."""
    columns, rows = normal(8, 2, 3, seed=1), normal(2, 6, 3, seed=2)
    kernel = np.einsum("oky,kix->oiyx", columns, rows).astype(np.float32)
    conv = node("Conv", ["inputs", "w", "b"], strides=[2, 1], pads=[1, 0, 2, 1])
    model = graph([conv], {"w": kernel, "b": normal(8)}, takes=IMAGE, gives=(BATCH, 8, 5, 7))
    done, made = compressed(tmp_path, model, rule="entropy", threshold=1.0)
    assert done.layers["w"].kind == "convolution_spatial"
    assert [n.op_type for n in made.graph.node] == ["Conv", "Conv"]
    inputs = normal(3, 6, 9, 8, seed=9)
    np.testing.assert_allclose(answers(made, inputs), answers(model, inputs), rtol=0, atol=1e-4)


def test_a_square_kernel_with_automatic_pads_is_multiplied_back(tmp_path: Path) -> None:
    columns, rows = normal(8, 2, 3, seed=1), normal(2, 6, 3, seed=2)
    kernel = np.einsum("oky,kix->oiyx", columns, rows).astype(np.float32)
    conv = node("Conv", ["inputs", "w"], auto_pad="SAME_LOWER")
    model = graph([conv], {"w": kernel}, takes=IMAGE, gives=(BATCH, 8, 9, 8))
    done, made = compressed(tmp_path, model, rule="entropy", threshold=1.0)
    assert done.layers["w"].kind == "convolution_spatial"
    assert made.graph.node[-1].op_type == "Conv"
    inputs = normal(3, 6, 9, 8, seed=9)
    np.testing.assert_allclose(answers(made, inputs), answers(model, inputs), rtol=0, atol=1e-4)


def test_what_no_layer_multiplies_by_stays(tmp_path: Path) -> None:
    """A table that is added, a scale, and the input of an integer layer."""
    others = {
        "table": rank_deficient(40, 32),
        "scale": rank_deficient(40, 32, seed=7),
        "ids": np.arange(64, dtype=np.int64).reshape(8, 8),
        "bias": normal(24),
    }
    nodes = [
        node("Add", ["inputs", "table"], ["a"]),
        node("Mul", ["a", "scale"], ["m"]),
        node("MatMul", ["m", "w"], ["h"]),
        node("Add", ["h", "bias"]),
    ]
    weights = {"w": rank_deficient(32, 24), **others}
    model = graph(nodes, weights, takes=(BATCH, 40, 32), gives=(BATCH, 40, 24))
    done, made = compressed(tmp_path, model)
    assert list(done.layers) == ["w"]
    path = tmp_path / "again.onnx"
    path.write_bytes(model.SerializeToString())
    held = {t.name: t for t in made.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name in others:
            assert held[tensor.name].SerializeToString() == tensor.SerializeToString()


def test_the_reason_says_so(tmp_path: Path) -> None:
    from worker.checkpoint import open_checkpoint

    nodes = [node("Add", ["inputs", "table"], ["a"]), node("MatMul", ["a", "w"])]
    weights = {"table": normal(40, 32), "w": normal(32, 24)}
    model = graph(nodes, weights, takes=(BATCH, 40, 32), gives=(BATCH, 40, 24))
    (tmp_path / "m").write_bytes(model.SerializeToString())
    opened = open_checkpoint([tmp_path / "m"])
    reasons = {t.name: t.passthrough for t in opened.tensors}
    assert reasons == {"table": Reason.NOT_A_WEIGHT, "w": None}
