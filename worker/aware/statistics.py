"""The statistics file as the worker reads it: checked, a layer at a time."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from rankpress.errors import InvalidRequest
from rankpress.names import Aware
from rankpress.schemas.statistics import (
    COVARIANCE,
    FREQUENCIES,
    MEAN,
    METADATA_KEY,
    SENSITIVITY,
    StatisticsInfo,
)
from worker.aware.roots import Root, root_of
from worker.aware.weighting import Weighting
from worker.read.matrix_view import MatrixView

POINTER = "/statistics"
_MADE_BY = "it is made by rankpress.collect_statistics(model, batches, path)"


class Statistics:
    """Second moments by weight. Raises InvalidRequest at `/statistics` for a file that is none,
    and wherever a tensor does not fit its layer."""

    def __init__(self, path: Path, aware: Aware) -> None:
        self._aware = aware
        try:
            self._file = cast(Any, safe_open(path, framework="pt"))
            self._keys = frozenset(self._file.keys())
            metadata = self._file.metadata() or {}
            self.info = StatisticsInfo.model_validate_json(metadata.get(METADATA_KEY, ""))
        except (SafetensorError, OSError, ValidationError) as error:
            raise InvalidRequest.at(
                POINTER, f"the file is no statistics file; {_MADE_BY}"
            ) from error
        if aware is Aware.TWO_SIDED and not self.info.two_sided:
            raise InvalidRequest.at(
                POINTER,
                "the file holds no sensitivities, which aware 'two_sided' needs; make it with "
                "two_sided=True, or ask for aware 'inputs'",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    @property
    def known(self) -> frozenset[str]:
        """Weights that the file holds moments of."""
        return frozenset(
            key.removesuffix(f"/{which}")
            for key in self._keys
            for which in (COVARIANCE, FREQUENCIES)
            if key.endswith(f"/{which}")
        )

    @property
    def corrected(self) -> frozenset[str]:
        """Weights whose inputs have a mean, so that a bias can take up the mean of their error."""
        ending = f"/{MEAN}"
        return frozenset(k.removesuffix(ending) for k in self._keys if k.endswith(ending))

    def check(self, name: str, view: MatrixView) -> None:
        """Raises InvalidRequest when the moments are not of a layer of this view."""
        for which, shape in self._expected(name, view):
            found = tuple(self._file.get_slice(f"{name}/{which}").get_shape())
            if found != shape:
                raise InvalidRequest.at(
                    POINTER,
                    f"{name}/{which} has shape {list(found)}, but the weight {list(view.shape)} "
                    f"asks for {list(shape)}: the statistics are of another model",
                )

    def weighting(self, name: str) -> Weighting:
        """The roots of a layer's moments. Raises InvalidRequest for moments that are none."""
        inner = self._root(name, FREQUENCIES if self._indexed(name) else COVARIANCE)
        outer = self.sensitivity(name)
        if self._indexed(name):  # the rows of an embedding's weight are its inputs
            return Weighting(rows=inner, columns=outer)
        return Weighting(rows=outer, columns=inner)

    def sensitivity(self, name: str) -> Root | None:
        """The root of what a layer's outputs count; None where they count alike."""
        return self._root(name, SENSITIVITY) if self._aware is Aware.TWO_SIDED else None

    def mean(self, name: str) -> torch.Tensor | None:
        """Mean input vector [N], float64; None for an embedding."""
        return self._tensor(name, MEAN) if f"{name}/{MEAN}" in self._keys else None

    def _expected(self, name: str, view: MatrixView) -> list[tuple[str, tuple[int, ...]]]:
        m, n = view.m, view.n
        if self._indexed(name):
            expected: list[tuple[str, tuple[int, ...]]] = [(FREQUENCIES, (m,))]
            outer = n
        else:
            expected = [(COVARIANCE, (n, n))]
            outer = m
        if f"{name}/{MEAN}" in self._keys:
            expected.append((MEAN, (n,)))
        if self._aware is Aware.TWO_SIDED:
            self._need(name, SENSITIVITY)
            expected.append((SENSITIVITY, (outer, outer)))
        return expected

    def _indexed(self, name: str) -> bool:
        return f"{name}/{FREQUENCIES}" in self._keys

    def _root(self, name: str, which: str) -> Root:
        try:
            return root_of(self._tensor(name, which))
        except ValueError as error:
            raise InvalidRequest.at(POINTER, f"{name} has no valid second moment") from error

    def _need(self, name: str, which: str) -> None:
        if f"{name}/{which}" not in self._keys:
            raise InvalidRequest.at(POINTER, f"the file has no {name}/{which}; {_MADE_BY}")

    def _tensor(self, name: str, which: str) -> torch.Tensor:
        self._need(name, which)
        found: torch.Tensor = self._file.get_tensor(f"{name}/{which}")
        if not found.is_floating_point() or not bool(found.isfinite().all()):
            raise InvalidRequest.at(POINTER, f"{name}/{which} is not finite")
        return found.double()


def check_names(statistics: Statistics, weights: Collection[str]) -> None:
    """Raises InvalidRequest when the file speaks of none of the model's weights."""
    if statistics.known.isdisjoint(weights):
        told = ", ".join(repr(name[:80]) for name in sorted(statistics.known)[:3])
        ours = ", ".join(repr(name[:80]) for name in sorted(weights)[:3])
        raise InvalidRequest.at(
            POINTER, f"the file is of {told or 'no layer'}; the model's weights are {ours}"
        )
