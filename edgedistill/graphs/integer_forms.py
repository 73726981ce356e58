"""Quantized files that no encoding can express: integer operators, 16-bit integers and computed scales."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgedistill.errors import ConfigError
from edgedistill.graphs.index import Index, lift_constants
from edgedistill.graphs.stored import all_nodes

INTEGER_OPERATORS = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize")
"""Prefixes of the operators that compute with integers: the QOperator format and dynamic quantization."""
ROUNDINGS = ("QuantizeLinear", "DequantizeLinear")
WIDE = (onnx.TensorProto.INT16, onnx.TensorProto.UINT16)


def require_int8_q_dq(path: Path, model: onnx.ModelProto) -> None:
    """Raise ConfigError for a quantized file that is not 8-bit QuantizeLinear and DequantizeLinear with stored scales."""
    for node in all_nodes(model.graph):
        if node.op_type.startswith(INTEGER_OPERATORS):
            _refuse(path, node, "computes with integers (QOperator format or dynamic quantization)")
    lifted = onnx.ModelProto()
    lifted.CopyFrom(model)
    lift_constants(lifted.graph)
    index = Index.of(lifted.graph)
    for node in lifted.graph.node:
        if node.op_type not in ROUNDINGS:
            continue
        if _is_wide(index, node):
            _refuse(path, node, "has 16-bit integers")
        if node.input[1] not in index.stored:
            _refuse(path, node, f"has a scale '{node.input[1]}' that is computed when the model runs")


def _is_wide(index: Index, node: onnx.NodeProto) -> bool:
    """Return whether a rounding has 16-bit integers; its zero point, the stored integers or an attribute show it."""
    tensors = [index.stored[name] for name in node.input if name in index.stored]
    chosen = [entry.i for entry in node.attribute if entry.name == "output_dtype"]
    return any(kind in WIDE for kind in (*chosen, *(tensor.data_type for tensor in tensors)))


def _refuse(path: Path, node: onnx.NodeProto, reason: str) -> None:
    raise ConfigError(
        f"{path}: {node.op_type} {node.name or node.output[0]!r} {reason}, which edgedistill does not rewrite for a kit; "
        "give the float model to 'edgedistill quantize', or measure this file as it is with 'edgedistill bench'"
    )
