"""An ONNX model by its protobuf alone: whether a file is one, and where its weights lie in it.

No ONNX library is needed: the API looks at uploads with this, and the worker maps the weights.
What the graph does is checked by the worker, before ONNX Runtime is given it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from rankpress.errors import CorruptFile, PayloadTooLarge, UnsupportedFormat
from rankpress.formats import dtypes
from rankpress.formats.limits import Limits
from rankpress.formats.protobuf import BYTES, VARINT, Field, Reader
from rankpress.formats.safetensors import clip

IR_VERSION, GRAPH, OPSETS, METADATA = 1, 7, 8, 14  # of a ModelProto
INITIALIZER = 5  # of a GraphProto
DIMS, DATA_TYPE, SEGMENT, FLOATS, NAME, RAW, DOUBLES, LOCATION = 1, 2, 3, 4, 8, 9, 10, 14
_STRINGS = frozenset((5, 6, 7, 11))  # values as numbers of varying length, or as texts
_MODEL_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26))
_MAX_IR_VERSION = 100
_MAX_DIMENSIONS = 64
MAX_BYTES = 2**31 - 1  # protobuf's own bound
DTYPES: dict[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
}
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Initializer:
    """A tensor of the graph: the bytes of its message, and of its values where they lie in it as
    they do in memory. `dtype` is None for types that torch does not have."""

    name: str
    dtype: str | None
    shape: tuple[int, ...]
    message: Span
    values: Span | None
    external: bool  # the values are in another file, or left out


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """`model` are the bytes of the model around its graph, `graph` those of the graph around its
    initializers."""

    initializers: tuple[Initializer, ...]
    model: tuple[Span, ...]
    graph: tuple[Span, ...]
    metadata: tuple[Span, ...]


def is_onnx(file: IO[bytes], size: int) -> bool:
    """A ModelProto has a small ir_version and a graph, and its fields end where the file does.
    Raises `CorruptFile` for one that ends before its last field does."""
    seen: set[int] = set()
    try:
        for field in Reader(file, size).fields(0, size):
            small = field.number != IR_VERSION or 1 <= field.value <= _MAX_IR_VERSION
            if field.number not in _MODEL_FIELDS or not small:
                return False
            seen.add(field.number)
    except CorruptFile as error:
        # Writers put the version first; a strange file is said to be none, not to be a cut one.
        if IR_VERSION in seen and _is_cut(file, size):
            raise CorruptFile(
                f"the file begins as an ONNX model, and is cut short: {error.detail}; send it again"
            ) from error
        return False
    return {IR_VERSION, GRAPH, OPSETS} <= seen


def read_onnx(file: IO[bytes], size: int, limits: Limits) -> OnnxFile:
    """Raises `CorruptFile`, and `PayloadTooLarge` over a limit."""
    if size > MAX_BYTES:
        raise CorruptFile(f"an ONNX model has at most {MAX_BYTES} bytes, and the file {size}")
    reader = Reader(file, size)
    top = list(reader.fields(0, size))
    graphs = [field for field in top if field.number == GRAPH and field.wire == BYTES]
    if len(graphs) != 1:
        raise CorruptFile(f"the ONNX model holds {len(graphs)} graphs, not one")
    (graph,) = graphs
    around: list[Span] = []
    found: dict[str, Initializer] = {}
    names = 0
    for field in reader.fields(graph.start, graph.end):
        if field.number != INITIALIZER or field.wire != BYTES:
            _append(around, (field.begin, field.end))
            continue
        tensor = _initializer(reader, field)
        if tensor.name in found or not tensor.name:
            raise CorruptFile(
                f"the ONNX model holds the initializer {clip(tensor.name)} twice, or without a name"
            )
        found[tensor.name] = tensor
        names += len(tensor.name)
        if len(found) > limits.max_tensors or names > limits.max_header_bytes:
            raise PayloadTooLarge(
                f"the ONNX model holds more than {limits.max_tensors} initializers, or their names "
                f"more than {limits.max_header_bytes} bytes"
            )
    model: list[Span] = []
    for field in top:
        if field is not graph:
            _append(model, (field.begin, field.end))
    return OnnxFile(
        initializers=tuple(found.values()),
        model=tuple(model),
        graph=tuple(around),
        metadata=tuple((f.start, f.end) for f in top if f.number == METADATA and f.wire == BYTES),
    )


def check_whole(found: OnnxFile) -> None:
    """That the weights are in the file. Raises `UnsupportedFormat`."""
    if left_out := [tensor.name for tensor in found.initializers if tensor.external]:
        raise UnsupportedFormat(
            f"the ONNX model leaves out the values of {len(left_out)} initializers, such as "
            f"{clip(left_out[0])}: it is a template, or keeps them in another file; send the model "
            "with its weights inside: torch.onnx.export(..., external_data=False), or "
            "onnx.save(onnx.load(path), path)"
        )


def metadata_value(file: IO[bytes], size: int, found: OnnxFile, key: str, most: int) -> str | None:
    """The entry of `metadata_props`, of at most `most` bytes. Raises `CorruptFile`."""
    reader = Reader(file, size)
    for start, end in found.metadata:
        entry = {f.number: f for f in reader.fields(start, end) if f.wire == BYTES}
        if 1 in entry and 2 in entry and _text(reader, entry[1], len(key)) == key:
            return _text(reader, entry[2], most)
    return None


def _initializer(reader: Reader, field: Field) -> Initializer:
    shape: list[int] = []
    once: dict[int, Field] = {}
    varied = external = False
    for part in reader.fields(field.start, field.end):
        if part.number == DIMS and part.wire in (VARINT, BYTES):
            shape += reader.numbers(part)
            if len(shape) > _MAX_DIMENSIONS:
                raise CorruptFile(f"the initializer at byte {field.begin} has too many dimensions")
        elif part.number in (DATA_TYPE, FLOATS, NAME, RAW, DOUBLES):
            if part.number in once:
                varied = True  # merged by who parses it: legal, and nobody writes it
            once[part.number] = part
        elif part.number == LOCATION:
            external = part.wire == VARINT and part.value == 1
        elif part.number in _STRINGS or part.number == SEGMENT:
            varied = True
    name = _text(reader, once[NAME], 4096) if NAME in once else ""
    if name is None:
        raise CorruptFile(f"the name of the initializer at byte {field.begin} is no text")
    code = once.get(DATA_TYPE)
    dtype = DTYPES.get(code.value) if code is not None and code.wire == VARINT else None
    return Initializer(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        message=(field.start, field.end),
        values=None if varied or external else _values(name, dtype, tuple(shape), once),
        external=external,
    )


def _values(
    name: str, dtype: str | None, shape: tuple[int, ...], once: dict[int, Field]
) -> Span | None:
    """Where the values lie as in memory. Raises `CorruptFile` when they are not as many as the
    shape says."""
    held = [n for n in (RAW, FLOATS, DOUBLES) if n in once]
    if dtype is None or len(held) > 1:
        return None
    wanted = dtypes.nbytes(dtype, shape)
    if not held:
        if wanted:
            raise CorruptFile(f"the initializer {clip(name)} has {list(shape)}, and no values")
        return None
    field = once[held[0]]
    as_in_memory = {RAW: dtype, FLOATS: "float32", DOUBLES: "float64"}[held[0]]
    if field.wire != BYTES or as_in_memory != dtype:
        return None
    if field.end - field.start != wanted:
        raise CorruptFile(
            f"the initializer {clip(name)} is {dtype} {list(shape)}, which takes {wanted} bytes, "
            f"and holds {field.end - field.start}"
        )
    return field.start, field.end


def _text(reader: Reader, field: Field, most: int) -> str | None:
    if field.wire != BYTES or field.end - field.start > most:
        return None
    try:
        return reader.at(field.start, field.end - field.start).decode()
    except UnicodeDecodeError:
        return None


def _append(spans: list[Span], span: Span) -> None:
    """Neighbours become one."""
    if spans and spans[-1][1] == span[0]:
        spans[-1] = (spans[-1][0], span[1])
    else:
        spans.append(span)


def _is_cut(file: IO[bytes], size: int) -> bool:
    """Whether what the last field asks for lies past the end of the file."""
    reader, last = Reader(file, size), None
    try:
        for field in reader.fields(0, size):
            last = field
    except CorruptFile:
        begin = 0 if last is None else last.end
        try:
            beyond = Reader(file, size).fields(begin, 2 * MAX_BYTES)
            field = next(beyond)
        except CorruptFile:
            return size - begin < 12
        return field.number in _MODEL_FIELDS and field.end > size
    return False
