"""The canonical form of an exported model: one encoding for each construct, and no metadata of the exporter."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgedistill.graphs.index import Edits, Index, Names, axis_of, drop_unread, lift_constants, set_axis
from edgedistill.graphs.opset import oldest_ir


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model with one operator set, explicit zero points and no metadata of the exporter.

    A dequantized int8 weight with a Transpose before its MatMul is stored transposed, with its axis adjusted, so that
    DequantizeLinear directly precedes the layer.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    lift_constants(graph)
    _cast_inputs_first(graph)
    _drop_identity_gathers(result)
    _merge_reshapes(graph)
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
    """Declare the producer, the operator sets in use, and the oldest IR version that supports them."""
    used = {node.domain for node in model.graph.node} | {function.domain for function in model.functions}
    imports = [entry for entry in model.opset_import if entry.domain in used | {""}]
    model.ClearField("opset_import")
    model.opset_import.extend(imports)
    model.ir_version = oldest_ir(imports)
    model.producer_name, model.producer_version = "edgedistill", ""
    model.ClearField("metadata_props")


def _cast_inputs_first(graph: onnx.GraphProto) -> None:
    """Cast an input before its Transpose: TensorRT accepts uint8 images, but only a Cast may read them."""
    inputs = {value.name for value in graph.input}
    with Edits(graph) as edits:
        for cast in [node for node in graph.node if node.op_type == "Cast"]:
            transpose = edits.index.producer.get(cast.input[0])
            if transpose is None or transpose.op_type != "Transpose" or transpose.input[0] not in inputs:
                continue
            if edits.index.readers[cast.input[0]] == 1:
                middle, result = cast.input[0], cast.output[0]
                cast.input[0], cast.output[0] = transpose.input[0], middle
                transpose.input[0], transpose.output[0] = middle, result
                edits.remove(cast)
                edits.insert_before(transpose, cast)


def _drop_identity_gathers(model: onnx.ModelProto) -> None:
    """Turn a Gather of all elements in order into a Reshape.

    torch exports global pooling of an image that was permuted from channels last as such a Gather (as_strided), and no
    engine simplifies it.
    """
    gathers = [node for node in model.graph.node if node.op_type == "Gather"]
    known = onnx.shape_inference.infer_shapes(model).graph.value_info if gathers else ()
    shapes = {value.name: value.type.tensor_type.shape for value in known}
    with Edits(model.graph) as edits:
        for node in gathers:
            chosen = edits.index.value(node.input[1])
            sizes = [size.dim_value for size in shapes[node.input[0]].dim] if node.input[0] in shapes else []
            if chosen is None or sizes != [chosen.size] or not np.array_equal(chosen.ravel(), np.arange(chosen.size)):
                continue
            shape = edits.store(f"{node.output[0]}_shape", np.array(chosen.shape, np.int64))
            reshape = onnx.helper.make_node("Reshape", [node.input[0], shape], [node.output[0]], name=node.name)
            edits.insert_before(node, reshape)
            edits.remove(node)


def _merge_reshapes(graph: onnx.GraphProto) -> None:
    """Connect a Reshape of a Reshape directly to the input of the first Reshape."""
    with Edits(graph) as edits:
        index = edits.index
        for node in [node for node in graph.node if node.op_type == "Reshape"]:
            first, shape = index.producer.get(node.input[0]), index.value(node.input[1])
            if first is None or first.op_type != "Reshape" or index.readers[first.output[0]] != 1:
                continue
            if shape is not None and (shape != 0).all():  # a 0 copies a size of the Reshape's input
                node.input[0] = first.input[0]
                edits.remove(first)


def _transpose_weights(graph: onnx.GraphProto) -> None:
    with Edits(graph) as edits:
        index, readers = edits.index, edits.index.readers
        for transpose in [node for node in graph.node if node.op_type == "Transpose"]:
            dequantizer = index.dequantizer(transpose.input[0])
            if dequantizer is None or readers[dequantizer.output[0]] != 1 or readers[dequantizer.input[0]] != 1:
                continue
            weight = index.value(dequantizer.input[0])
            if weight is None or weight.ndim != 2:
                continue
            name = dequantizer.input[0]
            index.stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight.T), name))
            set_axis(dequantizer, 1 - axis_of(dequantizer))
            dequantizer.output[0] = transpose.output[0]
            edits.remove(transpose)


def _write_zero_points(graph: onnx.GraphProto) -> None:
    """Write the zero point of every DequantizeLinear, which TensorRT 8 requires, and no axis for a scalar scale."""
    index, names = Index.of(graph), Names.of(graph)
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
                zeros[scale.size] = names.new(f"zero_point_{scale.size}")
                zero = np.zeros(scale.shape, np.int8)
                graph.initializer.append(numpy_helper.from_array(zero, zeros[scale.size]))
            node.input.append(zeros[scale.size])
