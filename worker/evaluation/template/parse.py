"""From the bytes of a template, or of a whole model without its weights, to a graph that ONNX
Runtime may see, or a refusal.

It comes from outside. ONNX can name files to read, call functions, loop, and ask for any
amount of memory; all that is refused here, by the static form of the graph, before the runtime is
given it. What no static check can see (a shape computed while running) is left to the limits of
the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from rankpress.errors import CorruptFile, EvaluationMismatch, UnsupportedFormat
from rankpress.schemas.template import STATE_DICT
from worker.evaluation.template.source import TEMPLATE, Source

MAX_BYTES = 64 * 2**20
MAX_NODES = 50_000
_MAX_IR_VERSION = 11
_STANDARD = frozenset(("", "ai.onnx"))
_SUBGRAPH_OPS = frozenset(("If", "Loop", "Scan", "SequenceMap"))
_RANDOM_OPS = frozenset(
    (
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    )
)
_PLAIN_ATTRIBUTES = frozenset(
    (
        AttributeProto.FLOAT,
        AttributeProto.INT,
        AttributeProto.STRING,
        AttributeProto.TENSOR,
        AttributeProto.FLOATS,
        AttributeProto.INTS,
        AttributeProto.STRINGS,
    )
)


def read_template(path: Path) -> ModelProto:
    """Raises UnsupportedFormat and CorruptFile for bytes that are no template, and
    EvaluationMismatch for a graph that is refused."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise EvaluationMismatch(
            f"The template has {size} bytes, more than {MAX_BYTES}; it must hold no weights. "
            + TEMPLATE.hint
        )
    return read_graph(path.read_bytes(), TEMPLATE)


def read_graph(data: bytes, source: Source) -> ModelProto:
    """A graph whose weights are placeholders. Raises UnsupportedFormat, CorruptFile, and what the
    source says of a graph that is refused."""
    model = _parse(data, source)
    model.DiscardUnknownFields()
    _check_header(model, source)
    for node in model.graph.node:
        _check_node(node, source)
    _check_initializers(model, source)
    _check_form(model, source)
    return model


def graph_inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that the caller feeds; older graphs list their initializers among them."""
    held = {initializer.name for initializer in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in held]


def is_placeholder(tensor: TensorProto) -> bool:
    """Whether its values are left out, to come from the state_dict."""
    return tensor.data_location == TensorProto.EXTERNAL


def _parse(data: bytes, source: Source) -> ModelProto:
    if not data:
        raise UnsupportedFormat(f"The {source.noun} is empty. {source.hint}")
    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:  # also what protobuf says of messages nested too deeply
        raise UnsupportedFormat(
            f"The {source.noun} begins with {data[:8].hex(' ')} and is no ONNX graph. {source.hint}"
        ) from error
    if not model.graph.node or not model.graph.output:
        raise CorruptFile(
            f"The {source.noun} holds no graph with nodes and an output. {source.hint}"
        )
    return model


def _check_header(model: ModelProto, source: Source) -> None:
    if len(model.graph.node) > MAX_NODES:
        raise source.refused(
            f"The {source.noun} has {len(model.graph.node)} nodes; at most {MAX_NODES} are run."
        )
    if model.ir_version > _MAX_IR_VERSION:
        raise source.refused(
            f"The {source.noun} is of ONNX IR version {model.ir_version}; at most "
            f"{_MAX_IR_VERSION} is read."
        )
    for opset in model.opset_import:
        if opset.domain not in _STANDARD:
            raise source.refused(
                f"The {source.noun} uses the operator domain {opset.domain[:80]!r}; only the "
                "standard ONNX operators are run."
            )
        if opset.version not in source.opsets:
            raise source.refused(
                f"The {source.noun} is of opset {opset.version}; {source.opsets[0]} to "
                f"{source.opsets[-1]} are run. {source.hint}"
            )
    for present, what in (
        (model.functions, "functions of its own"),
        (model.training_info, "training information"),
        (model.graph.sparse_initializer, "sparse initializers"),
        (model.graph.quantization_annotation, "quantisation annotations"),
    ):
        if present:
            raise source.refused(
                f"The {source.noun} holds {what}, which are not run. {source.hint}"
            )


def _check_node(node: NodeProto, source: Source) -> None:
    told = f"The {source.noun}'s node {node.name[:80]!r} ({node.op_type[:40]!r})"
    if node.domain not in _STANDARD:
        raise source.refused(
            f"{told} is of the operator domain {node.domain[:80]!r}; only the standard ONNX "
            "operators are run."
        )
    if node.op_type in _SUBGRAPH_OPS:
        raise source.refused(
            f"{told} runs a graph within the graph, which has no bound; export the model without "
            "control flow."
        )
    if node.op_type in _RANDOM_OPS:
        raise source.refused(f"{told} draws random numbers; export the model.eval() form.")
    for attribute in node.attribute:
        if attribute.ref_attr_name or attribute.type not in _PLAIN_ATTRIBUTES:
            raise source.refused(
                f"{told} has the attribute {attribute.name[:80]!r} of a kind that is not run "
                "(a graph, a sparse tensor or a type)."
            )
        if attribute.type == AttributeProto.TENSOR and is_placeholder(attribute.t):
            raise source.refused(
                f"{told} names a file for its attribute {attribute.name[:80]!r}; only the "
                "graph's own initializers may be left out."
            )
    _check_evaluation_mode(node, told, source)


def _check_evaluation_mode(node: NodeProto, told: str, source: Source) -> None:
    training = any(a.name == "training_mode" and a.i for a in node.attribute)
    dropping = node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])
    if training or dropping:
        raise source.refused(
            f"{told} is in training mode; export the model after model.eval(). {source.hint}"
        )


def _check_initializers(model: ModelProto, source: Source) -> None:
    names = Counter(tensor.name for tensor in model.graph.initializer)
    if twice := [name for name, count in names.items() if count > 1 or not name]:
        raise source.refused(
            f"The {source.noun} holds the initializer {twice[0][:80]!r} twice, or one without a "
            "name."
        )
    for tensor in model.graph.initializer:
        if not is_placeholder(tensor):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location") != STATE_DICT or len(entries) != len(tensor.external_data):
            raise source.refused(
                f"The {source.noun}'s initializer {tensor.name[:80]!r} names another file than the "
                f"state_dict. {source.hint}"
            )
        if tensor.raw_data or _holds_values(tensor):
            raise source.refused(
                f"The {source.noun}'s initializer {tensor.name[:80]!r} is a placeholder that holds "
                "values all the same."
            )


def _holds_values(tensor: TensorProto) -> bool:
    return any(
        len(field)
        for field in (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
    )


def _check_form(model: ModelProto, source: Source) -> None:
    """ONNX's own checker, on the graph with its placeholders made inputs: it would look for the
    files that they name."""
    whole = ModelProto()
    whole.CopyFrom(model)
    kept = list(_inline(whole))
    listed = {value.name for value in whole.graph.input}
    for tensor in whole.graph.initializer:
        if is_placeholder(tensor) and tensor.name not in listed:
            whole.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    del whole.graph.initializer[:]
    whole.graph.initializer.extend(kept)
    try:
        onnx.checker.check_model(whole)
    except (onnx.checker.ValidationError, ValueError, TypeError, RuntimeError) as error:
        raise CorruptFile(
            f"The {source.noun} is no valid ONNX graph: its nodes, names or types contradict each "
            f"other. {source.hint}"
        ) from error


def _inline(model: ModelProto) -> Iterator[TensorProto]:
    return (tensor for tensor in model.graph.initializer if not is_placeholder(tensor))
