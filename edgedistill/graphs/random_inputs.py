"""Random inputs for any ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import onnx

SEED = 0

Shapes = dict[str, tuple[int, ...]]
"""The shape of one request by input name, the batch axis of 1 included."""


def random_inputs(model: onnx.ModelProto, shapes: Shapes, requests: int) -> dict[str, np.ndarray]:
    """Return seeded random requests for each input: floats in [0, 1), and integers 0 or 1, which are valid indices."""
    import numpy as np
    import onnx

    rng = np.random.default_rng(SEED)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    inputs = {}
    for name, shape in shapes.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name])
        if dtype.kind not in "fiub":
            raise ConfigError(f"input '{name}' is of type {dtype}; random inputs can only be numbers or booleans")
        size = (requests, *shape)
        inputs[name] = (rng.random(size) if dtype.kind == "f" else rng.integers(0, 2, size)).astype(dtype)
    return inputs
