"""A pickle machine that builds a description instead of objects.

It imports nothing and calls nothing: a global becomes a `Global`, a call becomes a `Call`. So
there is no way from any sequence of opcodes to code, and what is left to judge is the list of
globals that were mentioned, whichever opcode mentioned them. Opcodes are those of protocols 0 to
5; the extension registry (EXT) and out-of-band buffers name things that are not in the file, and
are refused.
"""

from __future__ import annotations

import struct
from typing import Any

from rankpress.errors import UnsafePickle
from rankpress.formats.binary import Cursor
from rankpress.formats.globals import is_allowed, named, storage_dtype
from rankpress.formats.nodes import Call, Global, Storage, Value, mapping_of

MAX_INTEGER_BYTES = 255
MAX_NAME_BYTES = 4096
MAX_LOCATION = 64
_KEY_TYPES = (str, int, float, bool, bytes, type(None), Global)


class Malformed(Exception):
    """Not a sequence of opcodes that any pickler writes."""


class Machine:
    """The state of one reading. `forbidden` collects each global that is not on the list."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._stack: list[Value] = []
        self._below: list[list[Value]] = []  # the stacks under each open MARK
        self._memo: dict[int, Value] = {}
        self.forbidden: list[Global] = []

    # -- reading arguments

    def uint(self, count: int) -> int:
        return int.from_bytes(self._cursor.read(count), "little")

    def counted(self, width: int) -> bytes:
        return self._cursor.read(self.uint(width))

    def line(self) -> str:
        return self._cursor.readline(MAX_NAME_BYTES).decode("utf-8")

    def unpacked(self, form: str) -> Any:
        return struct.unpack(form, self._cursor.read(struct.calcsize(form)))[0]

    def signed(self, width: int) -> int:
        count = self.uint(width)
        if count > MAX_INTEGER_BYTES:
            raise Malformed(f"an integer of {count} bytes")
        return int.from_bytes(self._cursor.read(count), "little", signed=True)

    def written(self, text: str) -> int:
        """An integer in decimal digits."""
        value = int(text)
        if value.bit_length() > 8 * MAX_INTEGER_BYTES - 1:
            raise Malformed("an integer of too many digits")
        return value

    # -- the stack

    def push(self, value: Value) -> None:
        self._stack.append(value)

    def pop(self) -> Value:
        return self._stack.pop()

    def top(self) -> Value:
        return self._stack[-1]

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Value]:
        found = self._stack
        self._stack = self._below.pop()
        return found

    def pop_or_unmark(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.pop_mark()

    def put(self, key: int) -> None:
        self._memo[key] = self._stack[-1]

    def get(self, key: int) -> None:
        self._stack.append(self._memo[key])

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    # -- building

    def named(self, module: Value, name: Value) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Malformed("a global whose name is no text")
        if len(module) + len(name) > MAX_NAME_BYTES:
            raise Malformed("a global whose name is too long")
        found = named(module, name)
        if not is_allowed(found) and found not in self.forbidden:
            if len(self.forbidden) >= 100:
                raise UnsafePickle(f"the pickle asks for code: {self.forbidden[0]} and others")
            self.forbidden.append(found)
        return found

    def call(self, function: Value, args: Value, *, new: bool = False) -> Call:
        if not isinstance(function, Global):
            raise UnsafePickle(
                "the pickle calls the result of another call, which no saved state_dict does; "
                "send model.state_dict() saved with torch.save, or safetensors"
            )
        if type(args) is not tuple:
            raise Malformed("a call whose arguments are no tuple")
        return Call(function, args, new=new)

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if type(target) is not Call:
            raise Malformed("state for something that has none")
        target.state, target.states = state, target.states + 1
        if target.states > 1:
            raise Malformed("state is set twice")

    def set_items(self, pairs: list[Value]) -> None:
        target = mapping_of(self.top())
        if target is None:
            if type(self.top()) is not Call:
                raise Malformed("an item is set in something that is no dictionary")
            target = self.top().items
        if len(pairs) % 2:
            raise Malformed("a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[check_key(key)] = value

    def append(self, values: list[Value]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif type(target) is Call:
            target.appended.extend(values)
        else:
            raise Malformed("an item is appended to something that is no list")

    def add_items(self) -> None:
        values = self.pop_mark()
        target = self.top()
        if type(target) is not Call or str(target.function) != "builtins.set":
            raise Malformed("an item is added to something that is no set")
        target.appended.extend(check_key(value) for value in values)

    def persistent(self, saved: Value) -> Storage:
        if type(saved) is not tuple or len(saved) not in (5, 6) or _text(saved[0]) != "storage":
            if type(saved) is tuple and saved and _text(saved[0]) == "module":
                raise UnsafePickle(
                    "the file holds a whole pickled module with its source code, not weights; "
                    "send model.state_dict() saved with torch.save, or safetensors"
                )
            raise Malformed("a reference to something that is no storage")
        kind, key, location, numel = saved[1:5]
        dtype = storage_dtype(kind)
        if dtype is None:
            raise Malformed("a storage of an unknown type")
        if type(numel) is not int or not 0 <= numel < 2**62:
            raise Malformed("a storage of an impossible size")
        return Storage(
            key=_storage_key(key),
            dtype=dtype,
            numel=numel,
            location=str(_text(location))[:MAX_LOCATION],
            typed=kind.name != "UntypedStorage",
            view=_view(saved[5]) if len(saved) == 6 and saved[5] is not None else None,
        )


def check_key(key: Value) -> Value:
    """Keys are hashed, and the hash of a tuple that shares its parts takes exponential time."""
    if isinstance(key, _KEY_TYPES):
        return key
    if type(key) is tuple and all(isinstance(part, _KEY_TYPES) for part in key):
        return key
    raise Malformed("a dictionary key that is neither text nor a number")


def _text(value: Value) -> Value:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _storage_key(key: Value) -> str:
    key = _text(key)
    if not isinstance(key, str | int) or len(str(key)) > 200:
        raise Malformed("a storage with an impossible key")
    return str(key)


def _view(value: Value) -> tuple[str, int, int]:
    if type(value) is not tuple or len(value) != 3:
        raise Malformed("a window of a storage that is none")
    key, offset, count = value
    if type(offset) is not int or type(count) is not int or offset < 0 or count < 0:
        raise Malformed("a window of a storage with impossible bounds")
    return _storage_key(key), offset, count
