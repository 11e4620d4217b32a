"""Which tensor of the checkpoint each placeholder of the graph means."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, TensorProto
from pydantic import ValidationError

from rankpress.errors import EvaluationMismatch
from rankpress.loading.names import NameMap
from rankpress.schemas.template import METADATA_KEY, TemplateInfo
from worker.evaluation.template.parse import is_placeholder
from worker.tensors import StoredTensor

DTYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.INT16: "int16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.BOOL: "bool",
}
_FLOATING = frozenset(("float16", "bfloat16", "float32", "float64"))
_HINT = (
    "Export the template from the model whose state_dict this is: rankpress.export_template"
    "(model, example_inputs, path). A graph exported with optimize=True changes weights under "
    "their names and cannot be bound."
)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Placeholder of the graph -> name of the stored tensor, and the dtypes among them."""

    names: Mapping[str, str]
    dtypes: frozenset[str]


def bind(model: ModelProto, tensors: Sequence[StoredTensor]) -> Binding:
    """Raises EvaluationMismatch for a tensor that is missing, differs in shape or dtype, or that
    the graph does not use."""
    info = template_info(model)
    stored = {tensor.name: tensor for tensor in tensors}
    find = NameMap(stored)
    holders: dict[str, list[str]] = {}
    for alias, holder in info.tied.items():
        holders.setdefault(holder, []).append(alias)
    names: dict[str, str] = {}
    for placeholder in model.graph.initializer:
        found = _find(placeholder.name, holders.get(placeholder.name, []), find)
        if not is_placeholder(placeholder):
            if found is not None and stored[found].dtype in _FLOATING:
                raise EvaluationMismatch(
                    f"The template holds values of its own for {placeholder.name[:80]!r}, a tensor "
                    f"of the model; a template's weights are left out. {_HINT}"
                )
            continue
        if found is None:
            raise EvaluationMismatch(
                f"The template takes the tensor {placeholder.name[:80]!r}, which the model does "
                f"not hold. {_HINT}"
            )
        _check_same(placeholder, stored[found])
        names[placeholder.name] = found
    _check_all_used(info, names, stored, find)
    return Binding(
        names=names, dtypes=frozenset(stored[n].dtype for n in names.values()) & _FLOATING
    )


def template_info(model: ModelProto) -> TemplateInfo:
    """What the template says of itself; nothing when it was made elsewhere."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            try:
                return TemplateInfo.model_validate(json.loads(entry.value))
            except (ValueError, ValidationError, RecursionError) as error:
                raise EvaluationMismatch(
                    f"The template's entry {METADATA_KEY!r} cannot be read. {_HINT}"
                ) from error
    return TemplateInfo()


def _find(name: str, aliases: Sequence[str], names: NameMap) -> str | None:
    """The tensor itself, or the name that a file without duplicates kept of a tied one."""
    for candidate in (name, *aliases):
        found = names.find(candidate)
        if found is not None:
            return found
    return None


def _check_same(placeholder: TensorProto, stored: StoredTensor) -> None:
    dtype = DTYPES.get(placeholder.data_type, f"ONNX type {placeholder.data_type}")
    if tuple(placeholder.dims) != stored.shape or dtype != stored.dtype:
        raise EvaluationMismatch(
            f"The tensor {stored.name!r} is {stored.dtype} {list(stored.shape)} in the model, but "
            f"{dtype} {list(placeholder.dims)} in the template. {_HINT}"
        )


def _check_all_used(
    info: TemplateInfo,
    names: Mapping[str, str],
    stored: Mapping[str, StoredTensor],
    find: NameMap,
) -> None:
    used = set(names.values())
    fine = used | {found for name in info.unused if (found := find.find(name))}
    for alias, holder in info.tied.items():
        if holder in names and (found := find.find(alias)):
            fine.add(found)
    fine |= {t.name for t in stored.values() if t.alias_of in used}
    fine |= {first for name in used if (first := stored[name].alias_of)}
    left = [t.name for t in stored.values() if t.dtype in _FLOATING and t.name not in fine]
    if left:
        shown = ", ".join(repr(name) for name in left[:5]) + (", ..." if len(left) > 5 else "")
        raise EvaluationMismatch(
            f"The template does not use {len(left)} tensors of the model: {shown}. If the output "
            f"really does not depend on them, list them in export_template(unused=[...]). {_HINT}"
        )
