"""Reading one pickle into a description, and refusing it by name when it needs code."""

from __future__ import annotations

import struct
from contextlib import suppress

from rankpress.errors import CorruptFile, PayloadTooLarge, UnsafePickle
from rankpress.formats.binary import Cursor
from rankpress.formats.limits import Limits
from rankpress.formats.machine import Machine, Malformed
from rankpress.formats.nodes import Call, Global, Value, mapping_of, render, walk
from rankpress.formats.opcodes import table
from rankpress.formats.safetensors import clip

HINT = (
    "send model.state_dict() saved with torch.save, without such objects beside it, or safetensors"
)
_STOP = ord(".")
_MODULE_STATE = frozenset(("_parameters", "_buffers", "_modules"))


def read_pickle(cursor: Cursor, limits: Limits) -> Value:
    """The value that the next pickle describes (see `nodes`). Raises `UnsafePickle` when it
    mentions any global that a state_dict does not need, `CorruptFile`, `PayloadTooLarge`."""
    machine = Machine(cursor)
    try:
        root = _run(machine, cursor, limits)
    except (CorruptFile, PayloadTooLarge) as error:
        # What the pickle asked for before it broke off says more than where it broke off.
        if machine.forbidden:
            raise unsafe(machine.forbidden, None) from error
        raise
    if machine.forbidden:
        raise unsafe(machine.forbidden, root)
    return root


def _run(machine: Machine, cursor: Cursor, limits: Limits) -> Value:
    handlers, read = table(), cursor.read
    try:
        for _ in range(limits.max_opcodes):
            code = read(1)[0]
            if code == _STOP:
                return machine.pop()
            handler = handlers.get(code)
            if handler is None:
                raise Malformed(f"byte 0x{code:02x} is no opcode")
            handler(machine)
    except Malformed as error:
        raise CorruptFile(f"the pickle inside the file is damaged: {error}") from error
    except (
        IndexError,
        KeyError,
        ValueError,
        TypeError,
        SyntaxError,
        OverflowError,
        RecursionError,
        struct.error,
    ) as error:
        raise CorruptFile("the pickle inside the file is damaged") from error
    raise PayloadTooLarge(
        f"the pickle inside the file has more than {limits.max_opcodes} opcodes, which is the limit"
    )


def unsafe(forbidden: list[Global], root: Value) -> UnsafePickle:
    """The error that names the first forbidden global and the key under which it is used."""
    path, found = _place(forbidden, root)
    names = clip(str(found))[1:-1]
    others = [clip(str(other))[1:-1] for other in forbidden[:5] if other != found]
    also = f" (also {', '.join(others)})" if others else ""
    if _is_module(root):
        return UnsafePickle(
            f"the file holds a whole pickled module, {names}{also}, which only code can read; "
            "send model.state_dict() saved with torch.save, or safetensors"
        )
    where = clip(path)[1:-1] if path else "the pickle inside the file"
    return UnsafePickle(f"{where}: {names}{also} needs code to be read; {HINT}")


def _place(forbidden: list[Global], root: Value) -> tuple[str, Global]:
    wanted = set(forbidden)
    with suppress(CorruptFile):  # nested without end: then the name alone must do
        for path, value in walk(root):
            if isinstance(value, Global) and value in wanted:
                return render(path), value
    return "", forbidden[0]


def _is_module(root: Value) -> bool:
    """Whether what was pickled, or one of its entries, is a torch.nn.Module."""
    values = [root, *(mapping_of(root) or {}).values()]
    return any(
        type(value) is Call and type(value.state) is dict and value.state.keys() >= _MODULE_STATE
        for value in values
    )
