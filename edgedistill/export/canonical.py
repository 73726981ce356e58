"""The canonical form of an exported model: one way to write each thing, and nothing of the machine that wrote it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgedistill.export.graph import Index, axis_of, drop_unread, free_name, lift_constants, set_axis


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model with one operator set, explicit zero points and no traces of its making.

    A dequantized int8 weight that is transposed on its way to a MatMul is stored transposed, its axis with it, so that
    DequantizeLinear stands directly before the layer.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    lift_constants(graph)
    _transpose_weights(graph)
    _write_zero_points(graph)
    drop_unread(graph)
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in [*graph.input, *graph.output]:
        value.ClearField("metadata_props")
    graph.ClearField("value_info")
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
    graph.name = "edgedistill"
    _declare(result)
    return result


def _declare(model: onnx.ModelProto) -> None:
    """State the producer, the operator sets that are used, and the oldest IR version that has them."""
    used = {node.domain for node in model.graph.node} | {function.domain for function in model.functions}
    imports = [entry for entry in model.opset_import if entry.domain in used | {""}]
    model.ClearField("opset_import")
    model.opset_import.extend(imports)
    model.ir_version = onnx.helper.find_min_ir_version_for(imports)
    model.producer_name, model.producer_version = "edgedistill", ""
    model.ClearField("metadata_props")


def _transpose_weights(graph: onnx.GraphProto) -> None:
    index = Index.of(graph)
    for transpose in [node for node in graph.node if node.op_type == "Transpose"]:
        dequantizer = index.dequantizer(transpose.input[0])
        if dequantizer is None or index.readers[dequantizer.output[0]] != 1 or index.readers[dequantizer.input[0]] != 1:
            continue
        weight = index.value(dequantizer.input[0])
        if weight is None or weight.ndim != 2:
            continue
        name = dequantizer.input[0]
        index.stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight.T), name))
        set_axis(dequantizer, 1 - axis_of(dequantizer))
        dequantizer.output[0] = transpose.output[0]
        graph.node.remove(transpose)


def _write_zero_points(graph: onnx.GraphProto) -> None:
    """Give every DequantizeLinear its zero point, which TensorRT 8 asks for, and a scalar scale no axis."""
    index = Index.of(graph)
    zeros: dict[int, str] = {}
    for node in graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        scale = index.value(node.input[1])
        assert scale is not None
        if scale.ndim == 0:
            set_axis(node, None)
        if len(node.input) < 3:
            if scale.size not in zeros:
                zeros[scale.size] = free_name(graph, f"zero_point_{scale.size}")
                zero = np.zeros(scale.shape, np.int8)
                graph.initializer.append(numpy_helper.from_array(zero, zeros[scale.size]))
            node.input.append(zeros[scale.size])
