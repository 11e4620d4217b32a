"""What each opcode does to the machine: protocols 0 to 5, by their bytes."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable
from typing import Any

from rankpress.errors import UnsafePickle
from rankpress.formats.machine import Machine, Malformed
from rankpress.formats.nodes import Call, Global, Value

Handler = Callable[[Machine], None]
_SET = Global("builtins", "set")
_BYTEARRAY = Global("builtins", "bytearray")


def table() -> dict[int, Handler]:
    """Opcode byte -> handler. STOP is not in it: it ends the reading."""
    return {code[0]: handler for code, handler in _HANDLERS.items()}


def _constant(value: Value) -> Handler:
    return lambda m: m.push(value)


def _tuple_of(count: int) -> Handler:
    def handle(m: Machine) -> None:
        parts = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(parts)))

    return handle


def _text(data: bytes) -> Value:
    """Text of Python 2 pickles; bytes where it is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _quoted(m: Machine) -> None:
    value = ast.literal_eval("b" + m.line())
    if not isinstance(value, bytes):
        raise Malformed("a quoted text that is none")
    m.push(_text(value))


def _int_line(m: Machine) -> None:
    line = m.line()
    m.push(line == "01" if line in ("00", "01") else m.written(line))


def _proto(m: Machine) -> None:
    if (version := m.uint(1)) > pickle.HIGHEST_PROTOCOL:
        raise Malformed(f"protocol {version} does not exist")


def _frame(m: Machine) -> None:
    m.uint(8)  # the length of what follows: the cursor has bounds of its own


def _drop_mark(m: Machine) -> None:
    m.pop_mark()


def _dict(m: Machine) -> None:
    items = m.pop_mark()
    m.push({})
    m.set_items(items)


def _global(m: Machine) -> None:
    module = m.line()
    m.push(m.named(module, m.line()))


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.push(m.named(module, name))


def _inst(m: Machine) -> None:
    module = m.line()
    function = m.named(module, m.line())
    m.push(m.call(function, tuple(m.pop_mark())))


def _obj(m: Machine) -> None:
    function, *args = m.pop_mark()
    m.push(m.call(function, tuple(args)))


def _reduce(m: Machine) -> None:
    args, function = m.pop(), m.pop()
    m.push(m.call(function, args))


def _newobj(m: Machine) -> None:
    args, function = m.pop(), m.pop()
    m.push(m.call(function, args, new=True))


def _newobj_ex(m: Machine) -> None:
    raise Malformed("an object made with keyword arguments, which no state_dict holds")


def _set_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.set_items([key, value])


def _refused(what: str) -> Handler:
    def handle(m: Machine) -> None:
        raise UnsafePickle(
            f"the pickle inside the file uses {what}, which names something that is not in the "
            "file; send model.state_dict() saved with torch.save, or safetensors"
        )

    return handle


def _long_line(m: Machine) -> None:
    m.push(m.written(m.line().removesuffix("L")))


def _frozenset(m: Machine) -> None:
    # As protocol 2 writes it: by a name that torch.load(weights_only=True) does not allow.
    m.push(m.call(m.named("builtins", "frozenset"), (m.pop_mark(),)))


def _protocol_0_reference(m: Machine) -> None:
    raise Malformed("a storage reference of protocol 0, which torch never wrote")


def _push(read: Callable[[Machine], Any]) -> Handler:
    return lambda m: m.push(read(m))


_HANDLERS: dict[bytes, Handler] = {
    pickle.PROTO: _proto,
    pickle.FRAME: _frame,
    pickle.MARK: Machine.mark,
    pickle.POP: Machine.pop_or_unmark,
    pickle.POP_MARK: _drop_mark,
    pickle.DUP: lambda m: m.push(m.top()),
    # constants and numbers
    pickle.NONE: _constant(None),
    pickle.NEWTRUE: _constant(True),
    pickle.NEWFALSE: _constant(False),
    pickle.INT: _int_line,
    pickle.BININT: _push(lambda m: m.unpacked("<i")),
    pickle.BININT1: _push(lambda m: m.uint(1)),
    pickle.BININT2: _push(lambda m: m.uint(2)),
    pickle.LONG: _long_line,
    pickle.LONG1: _push(lambda m: m.signed(1)),
    pickle.LONG4: _push(lambda m: m.signed(4)),
    pickle.FLOAT: _push(lambda m: float(m.line())),
    pickle.BINFLOAT: _push(lambda m: m.unpacked(">d")),
    # text and bytes
    pickle.STRING: _quoted,
    pickle.BINSTRING: _push(lambda m: _text(m.counted(4))),
    pickle.SHORT_BINSTRING: _push(lambda m: _text(m.counted(1))),
    pickle.UNICODE: _push(lambda m: m.line().encode("latin-1").decode("raw-unicode-escape")),
    pickle.BINUNICODE: _push(lambda m: m.counted(4).decode("utf-8", "surrogatepass")),
    pickle.SHORT_BINUNICODE: _push(lambda m: m.counted(1).decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE8: _push(lambda m: m.counted(8).decode("utf-8", "surrogatepass")),
    pickle.BINBYTES: _push(lambda m: m.counted(4)),
    pickle.SHORT_BINBYTES: _push(lambda m: m.counted(1)),
    pickle.BINBYTES8: _push(lambda m: m.counted(8)),
    pickle.BYTEARRAY8: _push(lambda m: Call(_BYTEARRAY, (m.counted(8),))),
    # containers
    pickle.EMPTY_TUPLE: _constant(()),
    pickle.TUPLE: _push(lambda m: tuple(m.pop_mark())),
    pickle.TUPLE1: _tuple_of(1),
    pickle.TUPLE2: _tuple_of(2),
    pickle.TUPLE3: _tuple_of(3),
    pickle.EMPTY_LIST: _push(lambda m: []),
    pickle.LIST: _push(lambda m: m.pop_mark()),
    pickle.APPEND: lambda m: m.append([m.pop()]),
    pickle.APPENDS: lambda m: m.append(m.pop_mark()),
    pickle.EMPTY_DICT: _push(lambda m: {}),
    pickle.DICT: _dict,
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
    pickle.EMPTY_SET: _push(lambda m: Call(_SET, ())),
    pickle.ADDITEMS: Machine.add_items,
    pickle.FROZENSET: _frozenset,
    # memo
    pickle.GET: lambda m: m.get(int(m.line())),
    pickle.BINGET: lambda m: m.get(m.uint(1)),
    pickle.LONG_BINGET: lambda m: m.get(m.uint(4)),
    pickle.PUT: lambda m: m.put(int(m.line())),
    pickle.BINPUT: lambda m: m.put(m.uint(1)),
    pickle.LONG_BINPUT: lambda m: m.put(m.uint(4)),
    pickle.MEMOIZE: Machine.memoize,
    # what would be code anywhere else
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _stack_global,
    pickle.INST: _inst,
    pickle.OBJ: _obj,
    pickle.REDUCE: _reduce,
    pickle.NEWOBJ: _newobj,
    pickle.NEWOBJ_EX: _newobj_ex,
    pickle.BUILD: Machine.build,
    pickle.BINPERSID: lambda m: m.push(m.persistent(m.pop())),
    pickle.PERSID: _protocol_0_reference,
    pickle.EXT1: _refused("the extension registry (EXT1)"),
    pickle.EXT2: _refused("the extension registry (EXT2)"),
    pickle.EXT4: _refused("the extension registry (EXT4)"),
    pickle.NEXT_BUFFER: _refused("an out-of-band buffer"),
    pickle.READONLY_BUFFER: _refused("an out-of-band buffer"),
}
