"""Rules for a model as a whole: the standard, operators, types, shapes, and what float16 can hold."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgedistill.export.lint.roundings import Faults
from edgedistill.export.lint.view import View, label
from edgedistill.graphs.opset import opset_of
from edgedistill.graphs.stored import all_nodes, not_finite

MODEL = "model"
"""The label in place of a node for a finding about the whole file."""
STANDARD = {"", "ai.onnx", "ai.onnx.ml"}
LARGEST_HALF = float(np.finfo(np.float16).max)
SMALLEST_NORMAL_HALF = float(np.finfo(np.float16).tiny)


def validity(view: View) -> Faults:
    """Faults against the ONNX standard; missing output shapes are inferred first, as engines do."""
    try:
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(view.model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        yield MODEL, " ".join(str(error).split())[:300]
    except UnicodeDecodeError:  # onnx cannot write its own message
        yield MODEL, "a name in the model is not valid UTF-8"


def opset(view: View) -> Faults:
    """An operator set above the kit's limit."""
    assert view.limits is not None
    version = opset_of(view.model)
    if version > view.limits.opset:
        yield MODEL, f"opset {version}, but the engine takes at most opset {view.limits.opset}"


def unsupported(view: View) -> Faults:
    """Operators, their makers' domains, and types of inputs, outputs and stored tensors, that the kit does not support."""
    assert view.limits is not None
    for node in all_nodes(view.model.graph):
        if node.op_type in view.limits.unsupported:
            yield label(node), f"{node.op_type} is not supported"
        elif node.domain in view.limits.unsupported:
            yield label(node), f"{node.domain}:{node.op_type} is not supported"
    values = [
        (value.name, value.type.tensor_type.elem_type) for value in (*view.model.graph.input, *view.model.graph.output)
    ]
    stored = [(name, tensor.data_type) for name, tensor in view.index.stored.items()]
    for name, kind in dict.fromkeys(values + stored):
        spelt = onnx.TensorProto.DataType.Name(kind).lower()
        if spelt in view.limits.unsupported:
            yield name, f"tensors of type {spelt} are not supported"


def foreign_operators(view: View) -> Faults:
    """Operators that the ONNX standard does not define; another rule reports those that a kit excludes.

    A function that is left in a model that was read has another operator set, which hides its nodes from all rules.
    """
    functions = {(function.domain, function.name) for function in view.model.functions}
    known = STANDARD | (set() if view.limits is None else view.limits.unsupported)
    for node in all_nodes(view.model.graph):
        if (node.domain, node.op_type) in functions:
            yield label(node), f"{node.domain}:{node.op_type} is a function of another operator set, and is not checked"
        elif node.domain not in known:
            yield label(node), f"{node.domain}:{node.op_type} is not in the ONNX standard"


def dynamic_shapes(view: View) -> Faults:
    """Inputs with a size that the file does not fix."""
    for value in view.model.graph.input:
        kind = value.type.tensor_type
        sizes = [size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in kind.shape.dim]
        if value.name not in view.index.stored and (
            not kind.HasField("shape") or any(isinstance(s, str) for s in sizes)
        ):
            yield (
                value.name,
                f"input '{value.name}' has the dynamic shape {'x'.join(str(size) for size in sizes) or '?'}",
            )


def unsigned_inputs(view: View) -> Faults:
    """Inputs of type uint8 that a node other than a Cast reads."""
    for value in view.model.graph.input:
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
            for node in view.readers.get(value.name, ()):
                if node.op_type != "Cast":
                    yield label(node), f"{node.op_type} reads the uint8 input '{value.name}'; only a Cast may"


def finite(view: View) -> Faults:
    """Stored values that are NaN or infinite; other rules report scales, and float16."""
    scales = {node.input[1] for node in view.roundings}
    for name, tensor, fault in not_finite(view.model):
        if name not in scales and tensor.data_type != onnx.TensorProto.FLOAT16:
            yield name, fault


def half_overflow(view: View) -> Faults:
    """Stored float16 values that are not finite, and floats beyond its range that are cast to it."""
    for name, tensor in view.index.stored.items():
        half = tensor.data_type == onnx.TensorProto.FLOAT16
        if not half and not _cast_to_half(view, name):
            continue
        value = numpy_helper.to_array(tensor).astype(np.float64)
        count = int((~np.isfinite(value) | (np.abs(value) > LARGEST_HALF)).sum())
        if count:
            yield name, f"{count} of {value.size} values are beyond the range of float16 (65504)"


def half_precision(view: View) -> Faults:
    """Stored float16 values that were clipped to the largest value, or are too small for full precision."""
    scales = {node.input[1] for node in view.roundings}
    for name, tensor in view.index.stored.items():
        if tensor.data_type != onnx.TensorProto.FLOAT16:
            continue
        size = np.abs(numpy_helper.to_array(tensor).astype(np.float64))
        small = int(((size > 0) & (size < SMALLEST_NORMAL_HALF)).sum())
        if (size == LARGEST_HALF).any():
            yield name, "a value of exactly 65504: a converter clipped a larger one"
        elif small and (name in scales or small > np.count_nonzero(size) / 2):
            yield name, f"{small} of {size.size} values are below 6.1e-5, where float16 loses its precision"


def int8_where_it_is_slow(view: View) -> Faults:
    """A model with quantized layers."""
    count = sum(view.quantized(layer) for layer in view.layers)
    if count:
        yield MODEL, f"{count} quantized layers"


def _cast_to_half(view: View, name: str) -> bool:
    readers = [node for node in view.readers.get(name, ()) if node.op_type == "Cast"]
    return any(
        entry.name == "to" and entry.i == onnx.TensorProto.FLOAT16 for node in readers for entry in node.attribute
    )
