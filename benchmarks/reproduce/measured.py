"""What runs have measured, kept in docs/results.json: the page is made of all of it, and a run of
some rules or networks leaves the others as they were. Runs may go on at once."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reproduce.data import CACHE, ROOT

RESULTS = ROOT / "docs" / "results.json"


def found(path: Path = RESULTS) -> dict[str, Any]:
    """By network or experiment."""
    return json.loads(path.read_text()) if path.exists() else {}


def kept(key: str, value: Any, path: Path = RESULTS) -> None:
    """Replaces what was measured under `key`."""
    _changed(key, lambda before: value, path)


def kept_rows(
    key: str, rows: list[dict[str, Any]], setup: dict[str, Any], path: Path = RESULTS
) -> None:
    """Replaces the rows of the same rules. Others stay while `setup` is the same; a row of other
    weights or other validation images is no neighbour of these, and goes."""
    new = {row["rule"] for row in rows}

    def change(before: Any) -> dict[str, Any]:
        same = before is not None and before["setup"] == setup
        old = [row for row in before["rows"] if row["rule"] not in new] if same else []
        return {"setup": setup, "rows": old + rows}

    _changed(key, change, path)


def rows_of(key: str, setup: dict[str, Any], path: Path = RESULTS) -> list[dict[str, Any]]:
    """The rows that there are of this setup."""
    before = found(path).get(key)
    return before["rows"] if before is not None and before["setup"] == setup else []


def _changed(key: str, change: Callable[[Any], Any], path: Path) -> None:
    with _alone(path):
        before = found(path)
        after = {**before, key: change(before.get(key))}
        path.write_text(json.dumps(after, indent=1, sort_keys=True) + "\n")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time reads and writes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
