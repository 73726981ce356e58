"""The kernels that ONNX Runtime chooses for a model, with the settings that the kit of ONNX Runtime has."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

from edgedistill.graphs.reference import EXACT_PRODUCTS
from edgedistill.graphs.write import serialized
from edgedistill.runtime.processor import products_overflow

ERRORS_ONLY = 3


def kernels_of(model: onnx.ModelProto, folder: Path, *, arm: bool = False) -> Counter[str]:
    """Count the nodes of ONNX Runtime's optimised graph, for this machine or with what it allows itself on ARM."""
    options, path = onnxruntime.SessionOptions(), folder / "optimised.onnx"
    options.optimized_model_filepath, options.log_severity_level = str(path), ERRORS_ONLY
    if arm:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    elif products_overflow():
        options.add_session_config_entry(EXACT_PRODUCTS, "1")
    onnxruntime.InferenceSession(serialized(model), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)
