"""Writing a description back as a pickle of protocol 2, the one that torch.save writes.

Nothing is imported for it: globals are written by the name under which they were read. The same
description gives the same bytes. Shared values stay shared.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rankpress.errors import CorruptFile
from rankpress.formats.dtypes import TO_STORAGES
from rankpress.formats.nodes import Call, Global, Storage, Value

ORDERED_DICT = Global("collections", "OrderedDict")
_ENCODE = Global("_codecs", "encode")
_SET = Global("builtins", "set")
# A pickle that Python 3 writes with protocol 2 names the modules of Python 2.
_MODULES = {"builtins": "__builtin__"}


@dataclass(frozen=True, slots=True)
class _Raw:
    data: bytes


@dataclass(frozen=True, slots=True)
class _Remember:
    key: Any


def dumps(root: Value, replace: Callable[[Value], Value] = lambda value: value) -> bytes:
    """`replace` is asked for every value once, before it is written."""
    return _Writer(replace).write(root)


class _Writer:
    def __init__(self, replace: Callable[[Value], Value]) -> None:
        self._replace = replace
        self._out = bytearray(b"\x80\x02")
        self._memo: dict[Any, int] = {}
        self._alive: list[Value] = []  # ids in the memo must not be used again
        self._open: set[int] = set()  # begun, and not yet referable
        self._work: list[Any] = []

    def write(self, root: Value) -> bytes:
        self._work.append(root)
        while self._work:
            item = self._work.pop()
            if type(item) is _Raw:
                self._out += item.data
            elif type(item) is _Remember:
                self._remember(item.key)
            else:
                self._value(self._replace(item))
        return bytes(self._out + b".")

    def _remember(self, key: Any) -> None:
        if key[0] == "id":
            self._open.discard(key[1])
        index = self._memo.setdefault(key, len(self._memo))
        self._out += b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)

    def _known(self, key: Any) -> bool:
        index = self._memo.get(key)
        if index is None:
            return False
        self._out += b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)
        return True

    def _next(self, *items: Any) -> None:
        self._work.extend(reversed(items))

    def _value(self, value: Value) -> None:
        kind = type(value)
        if kind in _SCALARS:
            self._out += _SCALARS[kind](value)
        elif kind is str:
            if not self._known(("text", value)):
                data = value.encode("utf-8", "surrogatepass")
                self._out += b"X" + struct.pack("<I", len(data)) + data
                self._remember(("text", value))
        elif kind is bytes:
            self._next(Call(_ENCODE, (value.decode("latin-1"), "latin1")))
        elif kind is Global:
            if not self._known(("global", value)):
                module = _MODULES.get(value.module, value.module)
                self._out += f"c{module}\n{value.name}\n".encode()
                self._remember(("global", value))
        elif kind is Storage:
            self._storage(value)
        elif not self._known(("id", id(value))):
            if id(value) in self._open:
                raise CorruptFile("the pickle holds a value that contains itself")
            self._open.add(id(value))
            self._alive.append(value)
            self._container(value)

    def _storage(self, value: Storage) -> None:
        cls = TO_STORAGES[value.dtype] if value.typed else "UntypedStorage"
        module = "torch" if value.typed else "torch.storage"
        saved = ("storage", Global(module, cls), value.key, value.location, value.numel)
        self._next(_Raw(b"("), *saved, _Raw(b"tQ"))

    def _container(self, value: Value) -> None:
        mark = _Remember(("id", id(value)))
        if type(value) is tuple:
            if not value:
                self._open.discard(id(value))
            small = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value))
            if small is not None:
                self._next(*value, _Raw(small), *([mark] if value else []))
            else:
                self._next(_Raw(b"("), *value, _Raw(b"t"), mark)
        elif type(value) is list:
            self._next(_Raw(b"]"), mark, *_appended(value))
        elif type(value) is dict:
            self._next(_Raw(b"}"), mark, *_items(value))
        elif type(value) is Call:
            args, (items, appended) = value.args, value.parts
            if value.function == _SET:  # protocol 2 has no opcode that adds to a set
                args, appended = ([*(args[0] if args else ()), *appended],), []
            after = [*_appended(appended), *_items(items)]
            if value.states:
                after += [value.state, _Raw(b"b")]
            self._next(value.function, args, _Raw(b"\x81" if value.new else b"R"), mark, *after)
        else:
            raise TypeError(f"a description holds no {type(value).__name__}")


def _appended(values: list[Value]) -> list[Any]:
    return [_Raw(b"("), *values, _Raw(b"e")] if values else []


def _items(items: dict[Any, Value]) -> list[Any]:
    if not items:
        return []
    pairs = [part for pair in items.items() for part in pair]
    return [_Raw(b"("), *pairs, _Raw(b"u")]


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


_SCALARS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: _integer,
    float: lambda value: b"G" + struct.pack(">d", value),
}
