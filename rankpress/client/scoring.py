"""What goes to the service beside a model: the samples that it is scored on, and its
architecture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankpress.formats.onnx import is_onnx
from rankpress.names import ArchitectureKind

PathLike = str | os.PathLike[str]
Samples = PathLike | Mapping[str, Any]
"""A `.safetensors` or `.npz` file, or its arrays by name: tensors, or what makes one."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """As the caller gave it. At most one of `template`, a file of `rankpress.export_template`, and
    `example_inputs`, from which one is made."""

    validation: Samples | None = None
    template: PathLike | None = None
    example_inputs: Any = None
    is_graph: bool = False  # the model is an ONNX graph: its own architecture

    def beside(self, model: Any) -> Scoring:
        """With what the model says itself. Reads a file's first bytes."""
        if not isinstance(model, str | os.PathLike) or not Path(model).is_file():
            return self
        with Path(model).open("rb") as file:
            return replace(self, is_graph=is_onnx(file, Path(model).stat().st_size))

    @property
    def has_template(self) -> bool:
        return self.template is not None or self.example_inputs is not None

    def check(self, model: Any, fields: Mapping[str, Any]) -> None:
        """Raises TypeError for what cannot go together."""
        if self.is_graph and self.has_template:
            raise TypeError("an ONNX model is its own architecture: leave out the template")
        if self.example_inputs is not None and (
            isinstance(model, str | os.PathLike | Mapping) or not hasattr(model, "state_dict")
        ):
            raise TypeError(
                "example_inputs goes with an nn.Module, which is exported; beside a file or a "
                "state_dict pass template=, made by rankpress.export_template"
            )
        if self.example_inputs is not None and self.template is not None:
            raise TypeError("pass template or example_inputs, not both")
        if not self.has_template:
            return
        evaluation = fields.get("evaluation") or {}
        if self.validation is None and "validation" not in evaluation:
            raise TypeError("an architecture is for scoring: pass validation, the samples, too")
        if "architecture" in evaluation:
            raise TypeError(
                "evaluation.architecture is made from template or example_inputs; leave it out"
            )

    def fields(
        self, fields: Mapping[str, Any], validation_id: str | None, template_id: str | None
    ) -> dict[str, Any]:
        """The job's fields with what was uploaded."""
        merged = dict(fields)
        found: dict[str, Any] = dict(fields.get("evaluation") or {})
        if validation_id is not None:
            found["validation"] = validation_id
        if template_id is not None:
            found["architecture"] = {
                "kind": ArchitectureKind.TEMPLATE.value,
                "template": template_id,
            }
        if self.is_graph and "validation" in found:
            found.setdefault("architecture", {"kind": ArchitectureKind.ONNX.value})
        if found:
            merged["evaluation"] = found
        return merged

    def files(self, model: Any, folder: Path) -> tuple[Path | None, Path | None]:
        """The paths of validation file and template; what is in memory is written to `folder`.
        Raises ExportFailed and ImportError as `export_template` does."""
        validation = self.validation
        if isinstance(validation, Mapping):
            from rankpress.loading.saving import save_samples  # torch, for what is in memory alone

            path = folder / "validation.safetensors"
            save_samples(validation, path)
            validation = path
        template = self.template
        if self.example_inputs is not None:
            from rankpress.loading.export import export_template

            template = export_template(model, self.example_inputs, folder / "template.onnx").path
        return (
            None if validation is None else Path(validation),
            None if template is None else Path(template),
        )
