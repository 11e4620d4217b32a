"""The singular values of a job's layers: what every rank is chosen from.

With these and the report, "what if the threshold were ..." needs no other job: the page's slider
and `rankpress.schemas.report` give the same ranks from them.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from rankpress.names import Kind
from rankpress.schemas.base import Frozen

SINGLE_EPS = 2.0**-23


class LayerSpectrum(Frozen):
    """The spectrum of one tensor: of its matrix view, or of each expert's matrix in a stack."""

    name: str = Field(description="The tensor's key in the input file")
    shape: tuple[int, ...] = Field(description="The tensor as it is stored")
    kind: Kind = Field(description="The view that the singular values are of")
    m: int = Field(ge=1, description="Rows of the view; of one expert in a stack")
    n: int = Field(ge=1, description="Columns of the view; of one expert in a stack")
    count: int = Field(default=1, ge=1, description="Matrices: experts in a stack, else 1")
    bytes_per_parameter: int = Field(ge=1, description="Of the tensor and of its factors")
    eps: float = Field(
        default=SINGLE_EPS,
        gt=0,
        description="Machine epsilon of the precision that the matrix is computed in: values up "
        "to eps * s_1 count as zero in the entropies; tau = 1 keeps s_i > eps * max(m, n) * s_1",
    )
    singular_values: tuple[float, ...] | None = Field(
        default=None,
        description="s_1 >= ... >= s_r >= 0, r = min(m, n), in the tensor's own units; "
        "null for a stack of experts",
    )
    expert_singular_values: tuple[tuple[float, ...], ...] | None = Field(
        default=None, description="The same for each expert of a stack, in its order; else null"
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        spectra = self.spectra()
        if (self.singular_values is None) == (self.expert_singular_values is None):
            raise ValueError("give singular_values or expert_singular_values, and not both")
        if len(spectra) != self.count or any(len(s) != min(self.m, self.n) for s in spectra):
            raise ValueError("a spectrum has min(m, n) values, and a stack has count of them")
        return self

    def spectra(self) -> tuple[tuple[float, ...], ...]:
        """One spectrum for each matrix: `count` of them."""
        if self.expert_singular_values is not None:
            return self.expert_singular_values
        return () if self.singular_values is None else (self.singular_values,)


class SpectrumDocument(Frozen):
    """What `GET /v1/jobs/{id}/spectrum` answers."""

    layers: tuple[LayerSpectrum, ...] = Field(
        description="In the file's order; a tensor without a spectrum (biases, integers, tensors "
        "that hold inf or nan, tied ones) is left out"
    )
