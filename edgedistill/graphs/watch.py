"""A model that also returns its intermediate tensors."""

from __future__ import annotations

import onnx


def watched(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model that also returns every intermediate tensor."""
    result = onnx.shape_inference.infer_shapes(model)
    known = {output.name for output in result.graph.output}
    types = {value.name: value.type.tensor_type.elem_type for value in result.graph.value_info}
    for node in result.graph.node:
        for name in node.output:
            if name and name not in known and types.get(name):
                result.graph.output.append(onnx.helper.make_tensor_value_info(name, types[name], None))
    return result
