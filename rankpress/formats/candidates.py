"""Where in a checkpoint the weights are: the mappings of names to tensors, and which to take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rankpress.errors import AmbiguousCheckpoint, InvalidRequest, PayloadTooLarge, UnsupportedFormat
from rankpress.formats.described import Described, Layout, described
from rankpress.formats.dtypes import FACTORISABLE
from rankpress.formats.limits import Limits
from rankpress.formats.nodes import Path, Value, mapping_of, render, walk
from rankpress.formats.safetensors import clip
from rankpress.schemas.problem import ProblemItem

TOP = "."  # the weights_path of the top level
MAX_DEPTH = 6
_OPTIMIZER_WORD = re.compile(r"(^|[^a-z])(optims?|optimi[sz]er\w*|(lr_?)?schedulers?)([^a-z]|$)")
_SEND = "send model.state_dict() saved with torch.save, or safetensors"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A mapping with tensors in it. `path` is None at the top level."""

    path: str | None
    mapping: dict[object, Value]
    tensors: dict[str, Described]
    in_optimizer: bool

    @property
    def label(self) -> str:
        return TOP if self.path is None else self.path

    @property
    def has_matrix(self) -> bool:
        return any(
            t.layout is Layout.STRIDED and t.dtype in FACTORISABLE and len(t.shape) >= 2
            for t in self.tensors.values()
        )


def find(root: Value, limits: Limits) -> tuple[Candidate, ...]:
    """Every mapping of names to tensors, in the pickle's order; a mapping that is there under two
    paths counts once, under the first. Raises `PayloadTooLarge`, `CorruptFile`."""
    found: list[Candidate] = []
    count = 0
    for path, value in walk(root):
        mapping = mapping_of(value)
        if mapping is None:
            continue
        tensors = {
            name: tensor
            for name, item in mapping.items()
            if isinstance(name, str) and (tensor := described(item)) is not None
        }
        count += len(tensors)
        if count > limits.max_tensors:
            raise PayloadTooLarge(f"the file names more than {limits.max_tensors} tensors")
        if tensors and _depth(path) <= MAX_DEPTH:
            found.append(
                Candidate(
                    path=render(path) if path is not None else None,
                    mapping=mapping,
                    tensors=tensors,
                    in_optimizer=_in_optimizer(path),
                )
            )
    return tuple(found)


def choose(root: Value, found: tuple[Candidate, ...], weights_path: str | None) -> Candidate:
    """The candidate that `weights_path` names, or the only one there is. Mappings that hold
    matrices come before mappings of loose tensors (statistics, random states).

    Raises `InvalidRequest` at `/weights_path`, `AmbiguousCheckpoint` and `UnsupportedFormat`.
    """
    offered = _offered(found)
    empty = mapping_of(root) == {}
    if weights_path is not None and not (weights_path == TOP and empty):
        for candidate in found:
            if candidate.label == weights_path and not candidate.in_optimizer:
                return candidate
        raise InvalidRequest.at(
            "/weights_path",
            f"the checkpoint has no weights at {clip(weights_path)}; {_list(offered)}",
        )
    if len(offered) == 1:
        return offered[0]
    if not offered:
        mapping = mapping_of(root)
        if mapping is not None and empty:
            return Candidate(path=None, mapping=mapping, tensors={}, in_optimizer=False)
        raise UnsupportedFormat(f"the checkpoint holds {_describe(root)}; {_SEND}")
    detail = f"the checkpoint holds several sets of weights; {_list(offered)}"
    raise AmbiguousCheckpoint(
        f"{detail}; choose one with the field weights_path",
        errors=(ProblemItem(pointer="/weights_path", detail=_list(offered)),),
    )


def _offered(found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    weights = tuple(c for c in found if not c.in_optimizer)
    return tuple(c for c in weights if c.has_matrix) or weights


def _list(offered: tuple[Candidate, ...]) -> str:
    if not offered:
        return "it holds no weights at all"
    shown = ", ".join(f"{clip(c.label)} ({len(c.tensors)} tensors)" for c in offered[:20])
    more = f" and {len(offered) - 20} more" if len(offered) > 20 else ""
    return f"weights are at {shown}{more}"


def _steps(path: Path) -> Iterator[object]:
    while path is not None:
        path, step = path
        if step is not None:
            yield step


def _depth(path: Path) -> int:
    depth = 0
    for _ in _steps(path):
        depth += 1
        if depth > MAX_DEPTH:
            break
    return depth


def _in_optimizer(path: Path) -> bool:
    """By the names on the way: `optimizer_states[0].state[3]`."""
    keys = [step[0] for step in _steps(path) if isinstance(step, tuple)]
    return any(names_optimizer(key) for key in keys) or any(
        key == "state" and _numbered(keys, i) for i, key in enumerate(keys)
    )


def names_optimizer(key: object) -> bool:
    return isinstance(key, str) and bool(_OPTIMIZER_WORD.search(key[:256].lower()))


def without_optimizer(mapping: Mapping[Any, Value]) -> dict[Any, Value]:
    """The entries that are not an optimizer's or its scheduler's state."""
    return {key: value for key, value in mapping.items() if not names_optimizer(key)}


def _numbered(keys: list[object], at: int) -> bool:
    """`state` above a number is how optimizers file what they keep of each parameter."""
    return at > 0 and type(keys[at - 1]) is int


def _describe(root: Value) -> str:
    if described(root) is not None:
        return "one tensor without a name, not a mapping of names to tensors"
    mapping = mapping_of(root)
    if mapping is None:
        kind = type(root).__name__ if isinstance(root, list | tuple | str | int) else "value"
        return f"a {kind}, not a mapping of names to tensors"
    names = ", ".join(clip(str(key), 40) for key in list(mapping)[:10])
    return f"no tensors, only the entries {names}"
