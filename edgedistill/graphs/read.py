"""Read an ONNX file, with external data only from the file's folder, and fix its input shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import ConfigError
from edgedistill.graphs.random_inputs import Shapes
from edgedistill.graphs.shapes import resolve_shapes
from edgedistill.graphs.stored import all_nodes, require_external_data

if TYPE_CHECKING:
    import onnx

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear")
"""Prefixes of the operators of a quantized model."""


def is_quantized(graph: onnx.ModelProto) -> bool:
    """Return whether any part of a model computes with quantized values."""
    return any(node.op_type.startswith(QUANTIZED) for node in all_nodes(graph.graph))


def read_onnx(model: Path) -> onnx.ModelProto:
    """Read a model, with external data only from the model's folder: a model may name any file of this machine.

    Raises:
        ConfigError: the file is missing or not an ONNX model, or its external data is missing, too short or in another
            folder.
    """
    import onnx

    graph = check_onnx(model)
    try:
        onnx.load_external_data_for_model(graph, str(model.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ConfigError(f"{model}: its weights file cannot be read: {' '.join(str(error).split())[:300]}") from None
    return graph


def check_onnx(model: Path) -> onnx.ModelProto:
    """Read a model without external data, and check that the files with that data are whole; raises as `read_onnx`."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(str(model), load_external_data=False)
    except OSError as error:
        raise ConfigError(f"{model}: {error.strerror}") from None
    except DecodeError:
        raise ConfigError(f"{model}: is not an ONNX model") from None
    if not graph.graph.node:
        raise ConfigError(f"{model}: is not an ONNX model, or has no operators")
    require_external_data(model, graph)
    return graph


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
