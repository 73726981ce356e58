"""The signature of an ONNX model."""

from __future__ import annotations

import onnx

from edgedistill.records.signature import Signature, TensorSpec


def signature_of(model: onnx.ModelProto) -> Signature:
    """Return the named inputs and outputs of a model; weights that old files list as inputs are left out."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in stored)
    return Signature(inputs=inputs, outputs=tuple(_spec(value) for value in model.graph.output))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else "unknown"
    sizes = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=sizes)
