"""A graph with constants, identities and batch norms folded, by onnxslim."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import onnx
import onnxslim
from onnx import helper, numpy_helper

from edgedistill.errors import ConfigError
from edgedistill.graphs.index import drop_unread, lift_constants
from edgedistill.graphs.reference import Reference
from edgedistill.graphs.run import Arrays

FRAMES, BYTES = 4, 1024
"""The maximum number of recursive frames of onnxslim per graph node, and of C stack bytes per frame."""
SMALLEST_STACK = 64 << 20
FOLDED: Final = frozenset({
    "Add", "Cast", "Concat", "Div", "Flatten", "Gather", "Identity", "Mul", "Neg", "Reciprocal", "Reshape", "Slice", "Sqrt",
    "Squeeze", "Sub", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators on stored tensors that are computed at once where onnxslim fails; none makes a much larger tensor."""


class SlimError(ConfigError):
    """onnxslim failed on a model; the text is onnxslim's."""


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str | None]:
    """Return a model simplified as far as possible, and a sentence about it where onnxslim fails on the model."""
    try:
        return slim(model), None
    except SlimError as error:
        note = f"{error}; its batch norms and activations stay as they are"
    folded = fold_constants(model)
    try:
        return slim(folded), None
    except SlimError:
        return folded, note


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which stored tensors replace the plain operators that read only stored tensors."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    lift_constants(result.graph)
    stored = {tensor.name for tensor in result.graph.initializer}
    folded, others = list[onnx.NodeProto](), list[onnx.NodeProto]()
    answers = {output.name for output in result.graph.output}
    for node in result.graph.node:
        constant = node.op_type in FOLDED and not node.domain and answers.isdisjoint(node.output)
        constant = constant and all(not name or name in stored for name in node.input)
        (folded if constant else others).append(node)
        stored.update(node.output if constant else ())
    if not folded:
        return result
    try:
        values = _values(result, folded)
    except ConfigError:  # ONNX Runtime refuses a type: the operators stay
        return result
    result.graph.ClearField("node")
    result.graph.node.extend(others)
    result.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    drop_unread(result.graph)
    return result


def _values(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> Arrays:
    """Return the results of nodes that read only stored tensors."""
    read = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    ends = [helper.make_empty_tensor_value_info(name) for node in nodes for name in node.output]
    graph = helper.make_graph(nodes, "constants", [], ends, tensors)
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    return Reference(part.SerializeToString()).run({})


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model simplified by onnxslim, which sorts nodes by recursion: a deep graph needs a deep stack.

    Raises SlimError where onnxslim fails.
    """
    limit, stack = sys.getrecursionlimit(), threading.stack_size()
    deepest = limit + FRAMES * len(model.graph.node)
    sys.setrecursionlimit(deepest)
    threading.stack_size(max(SMALLEST_STACK, BYTES * deepest))
    try:
        with ThreadPoolExecutor(1) as thread:
            simplified: onnx.ModelProto = thread.submit(onnxslim.slim, model).result()
    except Exception as error:  # onnxslim raises Exception itself, and a valid model must not fail because of it
        raise SlimError(f"onnxslim cannot simplify the model ({type(error).__name__}: {error})") from error
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(stack)
    return simplified
