"""Small whole ONNX models for the tests, made node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[np.generic]
OPSET = 20
CLASSES = 5


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def low(m: int, n: int, k: int, seed: int = 0) -> Array:
    """[m, n] of rank k."""
    return (normal(m, k, seed=seed) @ normal(k, n, seed=seed + 1)).astype(np.float32)


def graph(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, Array],
    *,
    takes: Sequence[int | str] = ("batch", 32),
    gives: Sequence[int | str] = ("batch", CLASSES),
    opset: int = OPSET,
    kind: int = TensorProto.FLOAT,
) -> ModelProto:
    """A checked model from `inputs` to `output`."""
    made = helper.make_model(
        helper.make_graph(
            list(nodes),
            "net",
            [helper.make_tensor_value_info("inputs", kind, takes)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, gives)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
        producer_name="tests",
    )
    onnx.checker.check_model(made)
    return made


def two_layers(opset: int = OPSET) -> ModelProto:
    """A Gemm of rank 4 with a bias, and a protected output layer."""
    return graph(
        [
            helper.make_node("Gemm", ["inputs", "hidden.weight", "hidden.bias"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "head"], ["output"]),
        ],
        {
            "hidden.weight": low(48, 32, 4),
            "hidden.bias": normal(48),
            "head": normal(48, CLASSES),
        },
        opset=opset,
    )


def arrays(model: ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def answers(model: ModelProto, inputs: Array) -> Array:
    """By ONNX Runtime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["output"], {"inputs": inputs})
    return np.asarray(found)
