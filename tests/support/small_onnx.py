"""Small ONNX graphs written in ONNX's own text form."""

import numpy as np
import onnx
from onnx import numpy_helper, parser


def text_model(graph: str, opset: int = 18, **stored) -> onnx.ModelProto:
    """Read a graph such as "(float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }", and put stored tensors into it."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> test {graph}')
    for name, value in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    onnx.checker.check_model(model, full_check=True)
    return model


def requests_for(model: onnx.ModelProto, count: int = 4, size: float = 1.0, seed: int = 0) -> dict:
    """Return normally distributed requests of a standard deviation for a model of one float input."""
    (value,) = model.graph.input
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return {value.name: np.random.default_rng(seed).normal(0, size, (count, *shape)).astype(np.float32)}
