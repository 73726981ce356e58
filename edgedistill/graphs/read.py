"""Read an ONNX file, with external data only from the file's folder, and fix its input shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import ConfigError
from edgedistill.graphs.random_inputs import Shapes
from edgedistill.graphs.shapes import resolve_shapes
from edgedistill.graphs.stored import (
    all_nodes,
    external_files,
    nodes_and_functions,
    require_finite,
    require_inline_data,
    require_size,
    size_with_weights,
)

if TYPE_CHECKING:
    import onnx

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear")
"""Prefixes of the operators of a quantized model."""


UNLISTED_WEIGHTS = 4
"""The first IR version whose stored tensors need not be listed among the inputs."""
LONG_DOMAIN = "ai.onnx"
"""Another name of the ONNX operator set, whose usual name is empty."""
FIRST_OPSET = 1
"""The version of the ONNX operator set for a file that does not import it: no operator of the file is in the set."""


def is_quantized(graph: onnx.ModelProto) -> bool:
    """Return whether any part of a model computes with quantized values."""
    return any(node.op_type.startswith(QUANTIZED) for node in all_nodes(graph.graph))


def read_onnx(model: Path) -> onnx.ModelProto:
    """Read a model, with external data only from the model's folder: a model may name any file of this machine.

    Raises:
        ConfigError: the file is missing or not an ONNX model, an output is no tensor, a function calls itself, the model has
            more than 2 GiB, or stored data is missing, too short or in another folder.
    """
    import onnx

    graph = check_onnx(model)
    require_size(model, size_with_weights(model, graph))
    try:
        onnx.load_external_data_for_model(graph, str(model.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ConfigError(f"{model}: its weights file cannot be read: {' '.join(str(error).split())[:300]}") from None
    graph = _inlined(model, graph)
    _modernise(graph)
    return graph


def _inlined(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the nodes of its functions in place of the calls; only functions of another operator set stay."""
    import onnx.inliner

    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())[:300].rstrip(".")
        raise ConfigError(
            f"{path}: its functions cannot be read: {words}; export the model without functions"
        ) from None


def _modernise(model: onnx.ModelProto) -> None:
    """Remove stored tensors from the inputs, where IR version 3 required them, and write the imported operator set as ""."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, UNLISTED_WEIGHTS)
    for entry in (*model.opset_import, *all_nodes(model.graph)):
        if entry.domain == LONG_DOMAIN:
            entry.domain = ""
    if all(entry.domain for entry in model.opset_import):
        model.opset_import.add().version = FIRST_OPSET


def read_sound_onnx(model: Path) -> onnx.ModelProto:
    """Read a model as `read_onnx` does, and give nodes of one name different names, because ONNX Runtime refuses them.

    Raises:
        ConfigError: as `read_onnx`, and for stored weights that are NaN or infinite.
    """
    from edgedistill.graphs.index import name_nodes

    graph = read_onnx(model)
    require_finite(model, graph)
    names = [node.name for node in graph.graph.node if node.name]
    if len(set(names)) < len(names):
        name_nodes(graph.graph)
    return graph


def check_onnx(model: Path) -> onnx.ModelProto:
    """Read a model without external data, and check that the files with that data are whole; raises as `read_onnx`."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        require_size(model, model.stat().st_size)
        graph = onnx.load(str(model), load_external_data=False)
    except OSError as error:
        raise ConfigError(f"{model}: {error.strerror}") from None
    except DecodeError:
        raise ConfigError(f"{model}: is not an ONNX model") from None
    if not graph.graph.node:
        raise ConfigError(f"{model}: is not an ONNX model, or has no operators")
    if graph.ir_version > onnx.IR_VERSION:
        raise ConfigError(
            f"{model}: has IR version {graph.ir_version}, but onnx {onnx.__version__} reads versions up to "
            f"{onnx.IR_VERSION}; update the package onnx, or export the model with an older one"
        )
    require_inline_data(model, graph)
    external_files(model, graph)
    _require_tensors(model, graph)
    _require_ends(model, graph)
    return graph


def weights_files(model: Path) -> tuple[Path, ...]:
    """Return the files beside a model that hold its weights, none for one self-contained file; raises as `read_onnx`."""
    return external_files(model, check_onnx(model))


def _require_ends(path: Path, model: onnx.ModelProto) -> None:
    """Raise ConfigError for a loop without nodes: its condition never changes, and ONNX Runtime cannot be stopped in it."""
    for node in nodes_and_functions(model):
        if node.op_type == "Loop" and any(one.HasField("g") and not one.g.node for one in node.attribute):
            raise ConfigError(
                f"{path}: the Loop that makes '{', '.join(node.output)}' has no operators, and may never end"
            )


def _require_tensors(path: Path, model: onnx.ModelProto) -> None:
    """Raise ConfigError for an output that is a list or a map."""
    zipped = {name for node in model.graph.node if node.op_type == "ZipMap" for name in node.output}
    for value in model.graph.output:
        if value.name in zipped:
            raise ConfigError(
                f"{path}: output '{value.name}' is a list of dictionaries that ZipMap makes, not a tensor; export the "
                'pipeline without ZipMap: skl2onnx.to_onnx(model, X, options={"zipmap": False})'
            )
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            raise ConfigError(
                f"{path}: output '{value.name}' is not a tensor; export the model with tensors as outputs"
            )


def fix_shapes(graph: onnx.ModelProto, given: Shapes) -> tuple[Shapes, list[str]]:
    """Write fixed input shapes into a model, and return them and one line for each automatically chosen size.

    Inferred shapes are dropped. Raises ConfigError for shapes that the model does not accept.
    """
    shapes, choices = resolve_shapes(graph, given)
    changed = False
    for value in graph.graph.input:
        if value.name not in shapes:
            continue
        dims = value.type.tensor_type.shape.dim
        if tuple(dim.dim_value for dim in dims) != shapes[value.name]:
            changed = True
            del dims[:]
            for size in shapes[value.name]:
                dims.add().dim_value = size
    if changed:
        del graph.graph.value_info[:]
        for value in graph.graph.output:
            for size in value.type.tensor_type.shape.dim:  # the rank stays: the ONNX standard requires a shape
                size.Clear()
    return shapes, choices
