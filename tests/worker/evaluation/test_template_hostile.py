"""Templates that would read files, call functions, loop, or were exported the wrong way."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from torch import nn

import rankpress
from rankpress.errors import CorruptFile, EvaluationMismatch, UnsupportedFormat
from rankpress.schemas.template import METADATA_KEY, REFERENCE_KEY
from tests.worker.evaluation.evaluation_helpers import CPU, MemoryCheckpoint, stored
from worker.evaluation.template import load_architecture
from worker.evaluation.template import parse as parsing
from worker.evaluation.weights import Weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 6 * 6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.norm(self.conv(x))).flatten(1))


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[bytes, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = Net().eval()
    path = tmp_path_factory.mktemp("t") / "t.onnx"
    rankpress.export_template(model, torch.randn(2, 1, 8, 8), path)
    return path.read_bytes(), dict(model.state_dict())


def load(data: bytes, state, folder: Path):
    path = folder / "template"
    path.write_bytes(data)
    return load_architecture(path, stored(state))


def test_the_untouched_template_is_taken(good, tmp_path):
    data, state = good
    assert load(data, state, tmp_path).output_layer == "fc.weight"


def external(model: ModelProto, location: str) -> None:
    model.graph.initializer[0].external_data[0].value = location


def two_locations(model: ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def own_file(model: ModelProto) -> None:
    tensor = TensorProto(name="sneaky", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="state_dict")
    model.graph.initializer.append(tensor)


def attribute_file(model: ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="state_dict")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))


def function(model: ModelProto) -> None:
    model.functions.append(
        helper.make_function(
            "",
            "F",
            ["a"],
            ["b"],
            [helper.make_node("Relu", ["a"], ["b"])],
            [helper.make_opsetid("", 20)],
        )
    )


def other_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def node_of_other_domain(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.evil"


def loop(model: ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
    model.graph.node.append(helper.make_node("Loop", ["n"], ["out"], body=body))


def subgraph_in_a_plain_node(model: ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("hidden", body))


def reference_attribute(model: ModelProto) -> None:
    model.graph.node[0].attribute.append(
        AttributeProto(name="alpha", ref_attr_name="outer", type=AttributeProto.FLOAT)
    )


def training_info(model: ModelProto) -> None:
    model.training_info.add()


def sparse(model: ModelProto) -> None:
    model.graph.sparse_initializer.add()


def duplicate(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def values_in_a_placeholder(model: ModelProto) -> None:
    model.graph.initializer[0].float_data.extend([1.0, 2.0])


def weights_inside(model: ModelProto) -> None:
    name = model.graph.initializer[0].name
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros((4, 1, 3, 3), np.float32), name)
    )


def training_batch_norm(model: ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    node.attribute.append(helper.make_attribute("training_mode", 1))


def training_dropout(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Dropout", ["x", "ratio", "training"], ["out"]))


def random_numbers(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomNormal", [], ["noise"], shape=[2]))


def old_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 9


def future_format(model: ModelProto) -> None:
    model.ir_version = 99


def wrong_types(model: ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


def dangling(model: ModelProto) -> None:
    model.graph.node[-1].input[0] = "nothing makes this"


def unreadable_info(model: ModelProto) -> None:
    next(e for e in model.metadata_props if e.key == METADATA_KEY).value = "[" * 100_000


def no_outputs_of_numbers(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: external(m, "/etc/passwd"), "another file"),
        (lambda m: external(m, "../state_dict"), "another file"),
        (two_locations, "another file"),
        (own_file, r"'sneaky', which the model does not hold"),
        (attribute_file, "names a file for its attribute"),
        (function, "functions of its own"),
        (other_domain, r"operator domain 'com\.microsoft'"),
        (node_of_other_domain, r"operator domain 'com\.evil'"),
        (loop, "a graph within the graph"),
        (subgraph_in_a_plain_node, "'hidden' of a kind that is not run"),
        (reference_attribute, "'alpha' of a kind that is not run"),
        (training_info, "training information"),
        (sparse, "sparse initializers"),
        (duplicate, "twice"),
        (values_in_a_placeholder, "holds values all the same"),
        (weights_inside, "holds values of its own"),
        (training_batch_norm, "training mode"),
        (training_dropout, "training mode"),
        (random_numbers, "random numbers"),
        (old_opset, "opset 9"),
        (future_format, "IR version 99"),
        (unreadable_info, "cannot be read"),
        (no_outputs_of_numbers, "no floating output"),
    ],
)
def test_refused(good, tmp_path, change, message):
    data, state = good
    model = onnx.load_from_string(data)
    change(model)
    with pytest.raises(EvaluationMismatch, match=message):
        load(model.SerializeToString(), state, tmp_path)


@pytest.mark.parametrize("change", [wrong_types, dangling])
def test_graphs_that_contradict_themselves(good, tmp_path, change):
    data, state = good
    model = onnx.load_from_string(data)
    change(model)
    with pytest.raises(CorruptFile, match="no valid ONNX graph"):
        load(model.SerializeToString(), state, tmp_path)


def test_bytes_that_are_no_graph(good, tmp_path):
    data, state = good
    deep = b"\x0a\x04abcd"  # field 1 of field 7 of ... : a message in a message, 5,000 deep
    for _ in range(5000):
        length = len(deep)
        size = bytearray()
        while length >= 0x80:
            size.append(length & 0x7F | 0x80)
            length >>= 7
        size.append(length)
        deep = b"\x3a" + bytes(size) + deep
    for junk in (b"", b"<html>", b"\x80\x04.", deep, data[: len(data) // 2]):
        with pytest.raises((UnsupportedFormat, CorruptFile)):
            load(junk, state, tmp_path)


def test_too_many_bytes_or_nodes(good, tmp_path, monkeypatch):
    data, state = good
    monkeypatch.setattr(parsing, "MAX_BYTES", len(data) - 1)
    with pytest.raises(EvaluationMismatch, match=f"{len(data)} bytes, more than {len(data) - 1}"):
        load(data, state, tmp_path)
    monkeypatch.setattr(parsing, "MAX_BYTES", len(data))
    monkeypatch.setattr(parsing, "MAX_NODES", 3)
    with pytest.raises(EvaluationMismatch, match="at most 3"):
        load(data, state, tmp_path)


def test_unknown_fields_are_dropped(good, tmp_path):
    data, state = good
    hidden = b"\xfa\x3e\x06secret"  # field 1007, of no ONNX version
    assert b"secret" in data + hidden
    found = load(data + hidden, state, tmp_path)
    assert b"secret" not in found.model.SerializeToString()


def exported(model: nn.Module, folder: Path, **options: object) -> Path:
    import onnx_ir

    program = torch.onnx.export(
        model,
        (torch.randn(2, 1, 8, 8),),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        **options,
    )
    path = folder / "own.onnx"
    from rankpress.loading.export import _empty_weights

    _empty_weights(onnx_ir, program.model, set(model.state_dict()))
    onnx_ir.save(program.model, path)
    return path


@pytest.mark.filterwarnings("ignore")
def test_an_optimised_export_is_refused(tmp_path):
    model = Net().eval()
    path = exported(model, tmp_path, optimize=True)
    with pytest.raises(EvaluationMismatch, match=r"norm\.running_mean.*optimize=True"):
        load_architecture(path, stored(model.state_dict()))


@pytest.mark.filterwarnings("ignore")
def test_an_export_in_training_mode_is_refused(tmp_path):
    model = Net().train()
    path = exported(model, tmp_path, optimize=False)
    with pytest.raises(EvaluationMismatch, match="training mode"):
        load_architecture(path, stored(model.state_dict()))


@pytest.mark.parametrize("opset", [18, 19, 21, 22, 23, 24])
@pytest.mark.filterwarnings("ignore")
def test_every_opset_that_is_taken_gives_torchs_outputs(tmp_path, opset):
    torch.manual_seed(0)
    model = Net().eval()
    path = exported(model, tmp_path, optimize=False, opset_version=opset)
    state = dict(model.state_dict())
    architecture = load_architecture(path, stored(state))
    inputs = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        wanted = model(inputs)
    found = architecture.build(Weights(MemoryCheckpoint(state)), CPU)({"x": inputs})
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_damaged_reference_is_told(good, tmp_path):
    data, state = good
    model = onnx.load_from_string(data)
    next(e for e in model.metadata_props if e.key == REFERENCE_KEY).value = "bm90IHRlbnNvcnM="
    architecture = load(model.SerializeToString(), state, tmp_path)
    network = architecture.build(Weights(MemoryCheckpoint(state)), CPU)
    with pytest.raises(EvaluationMismatch, match="reference outputs cannot be read"):
        architecture.check_dense(network)


BOMB = """
import resource, sys, torch
from pathlib import Path
from worker.evaluation.template import load_architecture
from worker.evaluation.weights import Weights
from tests.worker.evaluation.evaluation_helpers import CPU, MemoryCheckpoint, stored
from rankpress.errors import EvaluationMismatch
from safetensors.torch import load_file
torch.set_num_threads(1)
state = load_file(sys.argv[2])
import onnxruntime
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
architecture = load_architecture(Path(sys.argv[1]), stored(state))
try:
    network = architecture.build(Weights(MemoryCheckpoint(state)), CPU)
    network({"inputs": torch.zeros(2, 1, 8, 8)})
except EvaluationMismatch as error:
    print("told:", error.detail)
"""


def test_a_graph_that_asks_for_memory_meets_the_process_limit(good, tmp_path):
    from safetensors.torch import save_file

    data, state = good
    model = onnx.load_from_string(data)
    last = model.graph.node[-1].output[0]
    model.graph.node[-1].output[0] = "was"
    shape = numpy_helper.from_array(np.array([3 * 10**9]), "huge")
    model.graph.initializer.append(shape)
    model.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["huge"], ["bomb"]),
            helper.make_node("ReduceMax", ["bomb"], ["most"], keepdims=0),
            helper.make_node("Add", ["was", "most"], [last]),
        ]
    )
    (tmp_path / "bomb").write_bytes(model.SerializeToString())
    save_file(state, tmp_path / "state")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BOMB), tmp_path / "bomb", tmp_path / "state"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.startswith("told:"), done.stderr[-2000:]
    assert "memory" in done.stdout
