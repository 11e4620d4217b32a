"""ONNX files by their protobuf alone: what is told of them, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from rankpress.errors import CorruptFile, InvalidFile, PayloadTooLarge, UnsupportedFormat
from rankpress.formats import Limits, inspect_file
from rankpress.formats.manifest import manifest_of
from rankpress.formats.onnx import check_whole, read_onnx
from rankpress.names import FileFormat
from rankpress.schemas.manifest import METADATA_KEY, Manifest
from tests.onnxmodels import arrays, graph, normal, two_layers


def inspected(data: bytes):
    return inspect_file(io.BytesIO(data), len(data))


def read(data: bytes, limits: Limits | None = None):
    return read_onnx(io.BytesIO(data), len(data), limits or Limits())


def test_the_tensors_are_told_and_lie_where_it_is_said() -> None:
    model = two_layers()
    data = model.SerializeToString()
    facts = inspected(data)
    assert facts.format is FileFormat.ONNX
    assert facts.tensors is not None
    assert [(t.name, t.dtype, t.shape) for t in facts.tensors] == [
        ("hidden.weight", "float32", (48, 32)),
        ("hidden.bias", "float32", (48,)),
        ("head", "float32", (48, 5)),
    ]
    for tensor in read(data).initializers:
        assert tensor.values is not None
        begin, end = tensor.values
        assert data[begin:end] == arrays(model)[tensor.name].tobytes()
        message = TensorProto.FromString(data[slice(*tensor.message)])
        assert message.name == tensor.name


def test_values_in_typed_fields_are_found_when_they_lie_as_in_memory() -> None:
    weight = normal(6, 4)
    model = two_layers()
    del model.graph.initializer[:]
    halves = weight.astype(np.float16)
    model.graph.initializer.extend(
        [
            helper.make_tensor("floats", TensorProto.FLOAT, [6, 4], weight.ravel()),
            helper.make_tensor("doubles", TensorProto.DOUBLE, [6, 4], weight.ravel()),
            helper.make_tensor("halves", TensorProto.FLOAT16, [6, 4], halves.ravel()),
            helper.make_tensor("texts", TensorProto.STRING, [1], [b"a"]),
        ]
    )
    data = model.SerializeToString()
    found = {t.name: t for t in read(data).initializers}
    assert data[slice(*found["floats"].values)] == weight.tobytes()
    assert data[slice(*found["doubles"].values)] == weight.astype(np.float64).tobytes()
    assert found["halves"].values is None  # a varint each
    assert found["texts"].dtype is None
    facts = inspected(data)
    assert facts.tensors is not None
    assert [t.name for t in facts.tensors] == ["floats", "doubles", "halves"]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_said_to_be_cut(share: float) -> None:
    data = two_layers().SerializeToString()
    with pytest.raises(CorruptFile, match="begins as an ONNX model, and is cut short"):
        inspected(data[: int(share * len(data))])


def test_strange_bytes_are_no_onnx_model() -> None:
    for data in (b"\x08\x07" + b"\xff" * 100, b"\x08\x07\x12\x05hello", b"\x08\x00\x3a\x00"):
        with pytest.raises(UnsupportedFormat, match="no checkpoint that is known here"):
            inspected(data)


def outside(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def test_a_model_without_its_weights_tells_no_tensors_and_is_not_whole() -> None:
    model = two_layers()
    outside(model)
    data = model.SerializeToString()
    assert inspected(data).tensors is None
    with pytest.raises(UnsupportedFormat, match=r"leaves out the values .* 'hidden.weight'"):
        check_whole(read(data))


def twice(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def nameless(model: ModelProto) -> None:
    model.graph.initializer[0].name = ""


def short(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"abcd"


def negative(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -48


def empty(model: ModelProto) -> None:
    model.graph.initializer[0].ClearField("raw_data")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (twice, "'hidden.weight' twice"),
        (nameless, "without a name"),
        (short, r"takes 6144 bytes, and holds 4"),
        (negative, "and holds 6144"),
        (empty, "and no values"),
    ],
)
def test_initializers_that_contradict_themselves(
    change: Callable[[ModelProto], None], words: str
) -> None:
    model = two_layers()
    change(model)
    with pytest.raises(CorruptFile, match=words):
        read(model.SerializeToString())


def test_two_graphs_are_refused_and_so_are_too_many_tensors() -> None:
    data = two_layers().SerializeToString()
    extra = ModelProto()
    extra.graph.name = "second"
    with pytest.raises(CorruptFile, match="2 graphs"):
        read(data + extra.SerializeToString())
    with pytest.raises(PayloadTooLarge, match="more than 2 initializers"):
        read(data, Limits(max_tensors=2))


def test_many_empty_fields_are_not_followed_for_ever() -> None:
    model = graph([helper.make_node("Relu", ["inputs"], ["output"])], {}, gives=("batch", 32))
    inner = model.graph.SerializeToString() + b"\x0a\x00" * 1_100_000
    made = ModelProto()
    made.CopyFrom(model)
    made.ClearField("graph")
    length = bytearray()
    number = len(inner)
    while number >= 0x80:
        length.append(number & 0x7F | 0x80)
        number >>= 7
    data = made.SerializeToString() + b"\x3a" + bytes([*length, number]) + inner
    assert inspected(data).tensors is None
    with pytest.raises(CorruptFile, match="more than 1000000 fields"):
        read(data)


def test_the_manifest_is_read_from_the_metadata() -> None:
    model = two_layers()
    manifest = Manifest(layers=())
    model.metadata_props.add(key="other", value="rankpress")
    model.metadata_props.add(key=METADATA_KEY, value=manifest.model_dump_json())
    data = model.SerializeToString()
    assert manifest_of(io.BytesIO(data), len(data), Limits()) == manifest
    plain = two_layers().SerializeToString()
    assert manifest_of(io.BytesIO(plain), len(plain), Limits()) is None


def test_damaged_bytes_are_a_problem_and_nothing_else() -> None:
    data = two_layers().SerializeToString()
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        damaged = bytearray(data)
        for at in random.integers(0, 1000, 3):  # names, shapes and lengths lie in front of values
            at = int(at) if at < 130 else len(data) - 1200 + int(at)
            damaged[at] = random.integers(256)
        try:
            outcomes.add(inspected(bytes(damaged)).tensors is None)
            read(bytes(damaged))
        except InvalidFile as error:
            outcomes.add(type(error))
    assert {True, False, CorruptFile} <= outcomes


def test_random_shapes_are_read_as_protobuf_reads_them() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        shapes = [tuple(random.integers(0, 5, random.integers(0, 4))) for _ in range(4)]
        model = two_layers()
        del model.graph.initializer[:]
        model.graph.initializer.extend(
            numpy_helper.from_array(normal(*shape, seed=seed), f"t{i}")
            for i, shape in enumerate(shapes)
        )
        data = onnx.load_from_string(model.SerializeToString()).SerializeToString()
        found = {t.name: t for t in read(data).initializers}
        for i, shape in enumerate(shapes):
            assert found[f"t{i}"].shape == shape
            if np.prod(shape):
                values = data[slice(*found[f"t{i}"].values)]
                assert values == normal(*shape, seed=seed).tobytes()
