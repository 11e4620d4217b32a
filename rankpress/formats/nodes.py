"""What a pickle describes, as plain data: the machine makes these and never calls anything."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from rankpress.errors import CorruptFile

# None, bool, int, float, str, bytes, list, dict, tuple, or a class of here.
Value: TypeAlias = Any
# A key of a mapping (in a tuple of one), an index, or nothing; and the way from the root.
Step: TypeAlias = tuple[Hashable] | int | None
Path: TypeAlias = tuple[Any, Step] | None

MAX_PATH = 200
MAX_NESTING = 200


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle asks to import. It is only ever compared."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Call:
    """`function(*args)`, as the pickle asks for; `new` when by `cls.__new__`.

    What is set on the result afterwards is kept beside it: dictionary items, list items, and
    the state that `__setstate__` would get.
    """

    # A hostile pickle makes a call of one byte, by the million: the containers wait for their use.
    __slots__ = ("_appended", "_items", "args", "function", "new", "state", "states")

    def __init__(self, function: Global, args: tuple[Value, ...], *, new: bool = False) -> None:
        self.function = function
        self.args = args
        self.new = new
        self._items: dict[Hashable, Value] | None = None
        self._appended: list[Value] | None = None
        self.state: Value = None
        self.states = 0

    @property
    def items(self) -> dict[Hashable, Value]:
        if self._items is None:
            self._items = {}
        return self._items

    @items.setter
    def items(self, items: dict[Hashable, Value]) -> None:
        self._items = items

    @property
    def appended(self) -> list[Value]:
        if self._appended is None:
            self._appended = []
        return self._appended

    @property
    def parts(self) -> tuple[dict[Hashable, Value], list[Value]]:
        """Items and appended values, without making what is not there."""
        return self._items or {}, self._appended or []


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of bytes outside of the pickle, by its key. `numel` counts elements of `dtype`."""

    key: str
    dtype: str
    numel: int
    location: str
    typed: bool  # False: torch.UntypedStorage, where numel counts bytes
    # Legacy files may name a window of a storage: (key of the window, first element, elements)
    view: tuple[str, int, int] | None = None


MAPPINGS = frozenset(("collections.OrderedDict", "collections.Counter", "collections.defaultdict"))


def mapping_of(value: Value) -> dict[Hashable, Value] | None:
    """The items of a dict or of a recorded OrderedDict or Counter; None for all else."""
    if type(value) is dict:
        return value
    if type(value) is Call and str(value.function) in MAPPINGS:
        return value.items
    return None


def children(value: Value) -> Iterator[tuple[Step, Value]]:
    """The parts of a value, each with the step that leads to it (None: no step of its own)."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            yield (key,), item
            yield None, key
    elif kind is list or kind is tuple:
        for i, item in enumerate(value):
            yield i, item
    elif kind is Call:
        yield None, value.function
        items, appended = value.parts
        for key, item in items.items():
            yield (key,), item
            yield None, key
        for i, item in enumerate(appended):
            yield i, item
        # Arguments are a tuple whose indices say nothing to anybody.
        for item in (*value.args, value.state):
            yield None, item


def render(path: Path) -> str:
    """`optimizer.param_groups[0].lr`; the beginning is left out of one that is endless."""
    steps: list[str] = []
    length = 0
    while path is not None and length < MAX_PATH:
        path, step = path
        text = "" if step is None else f"[{step}]" if isinstance(step, int) else key_step(*step)
        steps.append(text)
        length += len(text)
    joined = ""
    for text in reversed(steps):
        joined += text if not joined or not text or text.startswith("[") else f".{text}"
    return joined


def key_step(key: Hashable) -> str:
    return key if isinstance(key, str) else f"[{key!s}]"


def walk(root: Value) -> Iterator[tuple[Path, Value]]:
    """Every value once, with the path that leads to it, in the pickle's order. Not recursive, and
    paths are links: a hostile pickle nests as deep as it likes, and may contain itself. Raises
    `CorruptFile` below `MAX_NESTING` levels."""
    seen: set[int] = set()
    # The values on the way from the root, as far as they have been gone through.
    open_at: list[tuple[Path, Iterator[tuple[Step, Value]]]] = [(None, iter([(None, root)]))]
    while open_at:
        above, below = open_at[-1]
        for step, value in below:
            if len(open_at) > MAX_NESTING + 1:
                raise CorruptFile(f"the pickle is nested more than {MAX_NESTING} levels deep")
            path = above if step is None else (above, step)
            if type(value) not in (dict, list, tuple, Call):
                yield path, value
            elif id(value) not in seen:
                seen.add(id(value))
                yield path, value
                open_at.append((path, children(value)))
                break
        else:
            open_at.pop()
