"""`export_template`: a model's architecture as an ONNX graph without its weights.

The graph carries no code and no weights, so a service can run it safely with the state_dict that
it was sent, and with the compressed one. Needs the extra `export` (onnxscript, onnx-ir).
"""

from __future__ import annotations

import base64
import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from rankpress.loading.errors import LoadError
from rankpress.schemas.template import (
    METADATA_KEY,
    REFERENCE_INPUT,
    REFERENCE_KEY,
    REFERENCE_OUTPUT,
    STATE_DICT,
    TemplateInfo,
)

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 20
_REFERENCE_SAMPLES = 2
_MAX_REFERENCE_BYTES = 4 * 2**20


class ExportFailed(LoadError):
    """The model cannot be made into a template; the text says why and what to do."""

    slug = "export-failed"
    title = "Cannot export a template"


@dataclass(frozen=True, kw_only=True)
class Template:
    """What was written: the names that the validation file's arrays must have, and the outputs."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    info: TemplateInfo


def export_template(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    unused: Sequence[str] = (),
    reference: bool = True,
    dynamic_batch: bool = True,
) -> Template:
    """Writes the template of `model` to `path`; the model may be on the meta device.

    `example_inputs`, batch first, is one tensor (its array is then called `inputs`), several in
    the order of `forward`'s parameters (which name the arrays), or a mapping from those parameters
    to tensors. The batch axis is left open, unless `dynamic_batch` is false; all other sizes are
    fixed to the example's. `unused` names the floating tensors of the state_dict that play no part
    in the output, such as a pooling head that is never called. With `reference`, the first two
    examples and the model's answers to them travel in the template, so that the service can check
    that what it runs is this model.

    The model is exported in evaluation mode and left in the mode it was in. Raises ExportFailed,
    and ImportError when the extra `export` is not installed.
    """
    ir = _onnx_ir()
    args, kwargs, names = _as_arguments(model, example_inputs)
    with _evaluating(model), torch.no_grad():
        graph_model = _export(model, args, kwargs, dynamic_batch=dynamic_batch)
        _rename_inputs(graph_model, names, keyword=bool(kwargs))
        info = _account(graph_model, model, tuple(unused))
        answers = _reference(graph_model, model, args, kwargs) if reference else None
    _strip(graph_model)
    _empty_weights(ir, graph_model, set(model.state_dict()))
    graph_model.metadata_props[METADATA_KEY] = info.model_dump_json()
    if answers is not None:
        graph_model.metadata_props[REFERENCE_KEY] = answers
    ir.save(graph_model, path)
    return Template(
        path=Path(path),
        inputs=tuple(str(value.name) for value in graph_model.graph.inputs),
        outputs=tuple(str(value.name) for value in graph_model.graph.outputs),
        info=info,
    )


def _onnx_ir() -> Any:
    try:
        import onnx_ir
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ImportError(
            "export_template needs the extra 'export': pip install 'rankpress[export]'"
        ) from error
    return onnx_ir


def _as_arguments(
    model: nn.Module, example: Tensor | Sequence[Tensor] | Mapping[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor], list[str]]:
    """Positional and keyword arguments of `forward`, and the names of the graph's inputs."""
    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Tensor] = {}
    if isinstance(example, Tensor):
        args, names = (example,), ["inputs"]
    elif isinstance(example, Mapping):
        kwargs, names = dict(example), list(example)
    else:
        args = tuple(example)
        names = list(inspect.signature(model.forward).parameters)[: len(args)]
    tensors = [*args, *kwargs.values()]
    if not tensors or not all(isinstance(t, Tensor) and t.dim() > 0 for t in tensors):
        raise ExportFailed("example_inputs must be tensors with the batch as their first axis")
    if len({t.shape[0] for t in tensors}) > 1 or tensors[0].shape[0] == 0:
        raise ExportFailed("example_inputs must all hold the same number of samples, at least one")
    return args, kwargs, names


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for each module, then each as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _export(
    model: nn.Module,
    args: tuple[Tensor, ...],
    kwargs: dict[str, Tensor],
    *,
    dynamic_batch: bool,
) -> ir.Model:
    shapes: Any = None
    if dynamic_batch:
        # torch.export takes a size of 1 for a constant, so an example of one sample is doubled.
        args, kwargs = (
            tuple(_at_least_two(t) for t in args),
            {name: _at_least_two(t) for name, t in kwargs.items()},
        )
        batch = torch.export.Dim("batch")
        shapes = {name: {0: batch} for name in kwargs} or tuple({0: batch} for _ in args)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it reports each optional package that is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations, of no use to the caller
            # optimize=True would fold BatchNorm into other weights of the same name, and
            # transpose linear ones: binding by name would then be silently wrong.
            program = torch.onnx.export(
                model,
                args,
                kwargs=kwargs or None,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                dynamic_shapes=shapes,
            )
    except Exception as error:  # whatever the model's own code raises
        hint = "; dynamic_batch=False keeps the example's batch size" if dynamic_batch else ""
        raise ExportFailed(
            "torch.onnx.export cannot follow the model (the error before this one says where): "
            f"control flow that depends on values has no graph{hint}"
        ) from error
    finally:
        logger.setLevel(level)
    if program is None:
        raise ExportFailed("torch.onnx.export gave no program")
    return program.model


def _at_least_two(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor


def _rename_inputs(model: ir.Model, names: Sequence[str], *, keyword: bool) -> None:
    inputs = model.graph.inputs
    if len(inputs) != len(names) or (keyword and {value.name for value in inputs} != set(names)):
        raise ExportFailed(
            f"the graph takes {', '.join(str(value.name) for value in inputs)} where the examples "
            f"are {', '.join(names)}; pass tensors only, each of them used by forward"
        )
    if clash := [name for name in names if name in model.graph.initializers]:
        raise ExportFailed(f"the input {clash[0]!r} has the name of a tensor of the state_dict")
    if not keyword:  # keyword arguments keep their names, in the graph's own order
        for value, name in zip(inputs, names, strict=True):
            value.name = name


def _account(model: ir.Model, module: nn.Module, unused: tuple[str, ...]) -> TemplateInfo:
    """Each floating tensor of the state_dict is in the graph, tied to one that is, or listed."""
    state = module.state_dict(keep_vars=True)
    used = {name for name in model.graph.initializers if name in state}
    stands_for = {id(state[name]): name for name in used}
    tied = {
        name: stands_for[id(tensor)]
        for name, tensor in state.items()
        if name not in used and id(tensor) in stands_for
    }
    if wrong := [name for name in unused if name not in state]:
        raise ExportFailed(f"unused names no tensor of the state_dict: {', '.join(wrong)}")
    left = [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and name not in used | set(tied) | set(unused)
    ]
    if left:
        raise ExportFailed(
            "these tensors of the state_dict play no part in the exported graph: "
            f"{', '.join(left[:20])}{', ...' if len(left) > 20 else ''}. If the model's output "
            "really does not depend on them, list them in unused=[...]"
        )
    return TemplateInfo(tied=tied, unused=unused)


def _reference(
    graph_model: ir.Model,
    model: nn.Module,
    args: tuple[Tensor, ...],
    kwargs: dict[str, Tensor],
) -> str | None:
    """The model's own answers to the first examples; None on the meta device or when large."""
    tensors = [*args, *kwargs.values(), *model.state_dict().values()]
    if any(t.is_meta for t in tensors):
        return None
    few = [t[:_REFERENCE_SAMPLES] for t in (*args, *kwargs.values())]
    answer = model(*few[: len(args)], **dict(zip(kwargs, few[len(args) :], strict=True)))
    outputs = _flat_tensors(answer)
    if len(outputs) != len(graph_model.graph.outputs):
        return None
    if kwargs:
        by_name = dict(zip(kwargs, few, strict=True))
        few = [by_name[str(value.name)] for value in graph_model.graph.inputs]
    found = {
        prefix + str(value.name): tensor.detach().cpu().contiguous().clone()
        for prefix, values, given in (
            (REFERENCE_INPUT, graph_model.graph.inputs, few),
            (REFERENCE_OUTPUT, graph_model.graph.outputs, outputs),
        )
        for value, tensor in zip(values, given, strict=True)
    }
    if sum(t.nbytes for t in found.values()) > _MAX_REFERENCE_BYTES:
        return None
    return base64.b64encode(save_safetensors(found)).decode("ascii")


def _flat_tensors(answer: object) -> list[Tensor]:
    leaves, _ = torch.utils._pytree.tree_flatten(answer)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _strip(model: ir.Model) -> None:
    """The exporter notes the caller's source lines and paths in the graph: they stay at home."""
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None


def _empty_weights(ir: Any, model: ir.Model, keys: set[str]) -> None:
    """Every initializer that is a key of the state_dict becomes a placeholder."""
    for name, value in model.graph.initializers.items():
        if name not in keys or value.const_value is None:
            continue
        tensor = value.const_value
        value.const_value = ir.ExternalTensor(
            STATE_DICT, 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name
        )
