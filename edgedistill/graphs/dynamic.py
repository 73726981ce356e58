"""Int8 models without static scales of activations: dense layers choose the scale in each inference, or compute in float.

The weights are those of the model with static scales. DynamicQuantizeLinear finds the range of the input, and MatMulInteger multiplies the
integers; ONNX Runtime runs both, with the bias, as one kernel. No range of the calibration is left that another input could exceed, for the
time that it takes to find the range. Convolutions keep their static scales: engines have no fast kernel for others.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgedistill.graphs.index import Edits, Index, drop_unread

DENSE = {"Gemm", "MatMul"}


def with_dynamic_inputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return a copy of a canonical int8 model with dynamic inputs of its dense layers, and the number of these layers."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    index = Index.of(result.graph)
    layers = [node for node in result.graph.node if _quantizer(index, node) is not None]
    measured: dict[str, list[str]] = {}
    with Edits(result.graph) as edits:
        for layer in layers:
            quantizer = _quantizer(edits.index, layer)
            assert quantizer is not None
            name = quantizer.input[0]
            if name not in measured:
                measured[name] = [edits.names.new(f"{name}_{part}") for part in ("dynamic", "step", "offset")]
                node = helper.make_node("DynamicQuantizeLinear", [name], measured[name], name=measured[name][0])
                edits.insert_after(edits.index.producer.get(name), node)
            edits.insert_before(layer, *_product(edits, layer, measured[name]))
            edits.remove(layer)
    _drop_unread_roundings(result.graph)
    drop_unread(result.graph)
    return result, len(layers)


def with_float_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a canonical int8 model in which only weights are int8, and no activation is rounded."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    with Edits(result.graph) as edits:
        index = edits.index
        for restored in [node for node in result.graph.node if node.op_type == "DequantizeLinear"]:
            quantizer = index.producer.get(restored.input[0])
            if quantizer is None or quantizer.op_type != "QuantizeLinear":
                continue
            for reader in index.users.get(restored.output[0], ()):
                reader.input[:] = [quantizer.input[0] if name == restored.output[0] else name for name in reader.input]
            edits.remove(restored)
    _drop_unread_roundings(result.graph)
    drop_unread(result.graph)
    return result


def _quantizer(index: Index, layer: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return the QuantizeLinear of a dense layer's input, or None for another node or a layer in float."""
    if layer.op_type not in DENSE:
        return None
    data, weight = (index.dequantizer(name) for name in layer.input[:2])
    if data is None or weight is None or weight.input[0] not in index.stored:
        return None
    producer = index.producer.get(data.input[0])
    return producer if producer is not None and producer.op_type == "QuantizeLinear" else None


def _product(edits: Edits, layer: onnx.NodeProto, measured: list[str]) -> list[onnx.NodeProto]:
    """Return the nodes that compute a layer's result from its integer input, its scale and its zero point."""
    integers, step, offset = measured
    dequantizer = edits.index.dequantizer(layer.input[1])
    assert dequantizer is not None
    weight, steps = (edits.index.value(name) for name in dequantizer.input[:2])
    assert weight is not None
    assert steps is not None
    if any(entry.name == "transB" and entry.i for entry in layer.attribute):
        weight = weight.T
    name = layer.output[0]
    stored = edits.store(f"{name}_weight", np.ascontiguousarray(weight))
    scales, zeros = edits.store(f"{name}_steps", steps), edits.store(f"{name}_zeros", np.zeros(steps.shape, np.int8))
    sums, floats, scale = (edits.names.new(f"{name}_{part}") for part in ("sums", "floats", "scale"))
    bias = list(layer.input[2:3])
    product = edits.names.new(f"{name}_product") if bias else name
    nodes = [
        helper.make_node("MatMulInteger", [integers, stored, offset, zeros], [sums], name=sums),
        helper.make_node("Cast", [sums], [floats], name=floats, to=TensorProto.FLOAT),
        helper.make_node("Mul", [step, scales], [scale], name=scale),
        helper.make_node("Mul", [floats, scale], [product], name=product),
    ]
    return [*nodes, helper.make_node("Add", [product, *bias], [name], name=layer.name)] if bias else nodes


def _drop_unread_roundings(graph: onnx.GraphProto) -> None:
    """Remove the roundings that only dense layers read."""
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        with Edits(graph) as edits:
            for node in graph.node:
                if node.op_type == kind and not edits.index.readers[node.output[0]]:
                    edits.remove(node)
