"""Which tensor of the model a name in the file means."""

from __future__ import annotations

from collections.abc import Iterable

# What wrappers put into a key, at its front or in its middle: DDP, torch.compile, FSDP,
# activation checkpointing.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def unwrapped(name: str) -> str:
    """The name without its wrappers' parts, wherever they stand."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


class NameMap:
    """Finds the model's name for a name of the file: the same one, else the only one that is the
    same without wrappers. A model may itself have a submodule called `module`, so the exact name
    goes first and a choice of two is none."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = set(names)
        self._by_unwrapped: dict[str, list[str]] = {}
        for name in self._exact:
            self._by_unwrapped.setdefault(unwrapped(name), []).append(name)

    def find(self, name: str) -> str | None:
        if name in self._exact:
            return name
        found = self._by_unwrapped.get(unwrapped(name), [])
        return found[0] if len(found) == 1 else None
