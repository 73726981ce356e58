"""Convert a model to another version of the ONNX operator set, with the same outputs.

ONNX's converter raises the version. To a lower version that converter lacks operators (Pad) and keeps attributes that no
older version has (ReduceMean), so this module lowers the version: ONNX's schemas show which operators differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import defs, helper

from edgedistill.errors import ConfigError
from edgedistill.graphs.index import Edits, Index, drop_unread, lift_constants
from edgedistill.graphs.run import Requests, run_each
from edgedistill.graphs.watch import watched

# Two kernels of ONNX Runtime for one operator may add in another order (AveragePool before and from opset 19 on).
TOLERANCE = 1e-6
Sizes = dict[str, list[int]]
"""The shape of each tensor, by its name."""


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the ONNX operator set that a model declares."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def oldest_ir(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    """Return the oldest IR version for operator sets; those of other makers, such as com.microsoft, need none."""
    standard = [entry for entry in imports if entry.domain in ("", "ai.onnx", "ai.onnx.ml")]
    version: int = helper.find_min_ir_version_for(standard)
    return version


def to_opset(model: onnx.ModelProto, opset: int, requests: Requests) -> onnx.ModelProto:
    """Return a copy of a model in another opset; raise if any tensor differs on the first of `requests`.

    Args:
        model: a model of fixed shapes; without control flow if the new opset is older.
        opset: the version that the copy declares.
        requests: for each input, an array of shape (R, *the input's shape).

    Raises:
        ConfigError: an operator has no exact form in that opset; the message names the operator.
    """
    if opset == opset_of(model):
        result = onnx.ModelProto()
        result.CopyFrom(model)
        return result
    result = _raised(model, opset) if opset > opset_of(model) else _lowered(model, opset)
    result.ir_version = oldest_ir(result.opset_import)
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConfigError(
            f"opset {opset}: the model has no exact form in it: {' '.join(str(error).split())[:300]}; choose a kit that "
            "supports a newer opset"
        ) from None
    _require_same(model, result, requests)
    return result


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"opset {opset}: ONNX's converter cannot raise the model from opset {opset_of(model)}: {reason[-300:]}; "
            "export the original model in this opset"
        ) from None


def _lowered(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    result = onnx.shape_inference.infer_shapes(model)
    before, graph = opset_of(model), result.graph
    lift_constants(graph)
    edits = Edits(graph)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
    }
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        newer, older = _schema(node, before), _schema(node, opset)
        if older is None or newer is None or any(attribute.HasField("g") for attribute in node.attribute):
            _refuse(node, opset, "does not exist there" if older is None else "contains a subgraph")
        if newer.since_version == older.since_version:
            continue
        if node.op_type in REWRITES:
            REWRITES[node.op_type](edits, shapes, node)
        _relabel(node, opset, newer, older)
    for entry in result.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    drop_unread(graph)
    graph.ClearField("value_info")
    return result


def _schema(node: onnx.NodeProto, opset: int) -> Any:
    """Return an operator's schema in an opset, or None where the operator does not exist or is deprecated."""
    return defs.get_schema(node.op_type, opset, "") if defs.has(node.op_type, opset, "") else None


def _relabel(node: onnx.NodeProto, opset: int, newer: Any, older: Any) -> None:
    """Remove newer attributes with default values; ONNX Runtime checks the types when it runs the result."""
    for attribute in list(node.attribute):
        if attribute.name not in older.attributes:
            default = newer.attributes[attribute.name].default_value
            if helper.get_attribute_value(attribute) != helper.get_attribute_value(default):
                _refuse(node, opset, f"has no '{attribute.name}' there")
            node.attribute.remove(attribute)
    written = {attribute.name for attribute in node.attribute}
    for name in set(older.attributes) & set(newer.attributes) - written:
        if older.attributes[name].default_value != newer.attributes[name].default_value:
            _refuse(node, opset, f"has another default for '{name}' there")
    if len(node.input) > older.max_input:
        _refuse(node, opset, f"takes {older.max_input} inputs there, not {len(node.input)}")


def _refuse(node: onnx.NodeProto, opset: int, reason: str) -> None:
    raise ConfigError(
        f"opset {opset}: {node.op_type} {node.name or node.output[0]!r} has no exact form in it: {node.op_type} {reason}; "
        "choose a kit that supports a newer opset, or write that part of the model with other operators"
    )


def _axes_to_attribute(edits: Edits, _: Sizes, node: onnx.NodeProto) -> None:
    """Turn the axes of a reduction into an attribute: before opset 18 only ReduceSum has them as an input."""
    if len(node.input) < 2 or not node.input[1]:
        return
    axes = edits.index.value(node.input[1])
    if axes is not None and axes.size:
        node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.ravel()]))
        del node.input[1]


def _split_sizes(edits: Edits, shapes: Sizes, node: onnx.NodeProto) -> None:
    """Write out the sizes of unequal parts: before opset 18 a Split without sizes makes equal parts."""
    count = next((attribute for attribute in node.attribute if attribute.name == "num_outputs"), None)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    if count is None or node.input[0] not in shapes:
        return
    whole = shapes[node.input[0]][axis]
    part = -(-whole // count.i)
    node.attribute.remove(count)
    if whole % count.i:
        sizes = [part] * (count.i - 1) + [whole - part * (count.i - 1)]
        node.input.append(edits.store(f"{node.output[0]}_sizes", np.array(sizes, np.int64)))


def _drop_allowzero(edits: Edits, _: Sizes, node: onnx.NodeProto) -> None:
    """Remove the attribute for a 0 in the new shape where the shape has no 0."""
    shape = edits.index.value(node.input[1])
    if shape is not None and shape.all():
        for attribute in [attribute for attribute in node.attribute if attribute.name == "allowzero"]:
            node.attribute.remove(attribute)


REWRITES: Final[dict[str, Callable[[Edits, Sizes, onnx.NodeProto], None]]] = {
    "Split": _split_sizes,
    "Reshape": _drop_allowzero,
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
         "ReduceSumSquare"), _axes_to_attribute),
}  # fmt: skip
"""The rewrites of operators; all other operators differ between opsets only in types and attributes."""


def _require_same(before: onnx.ModelProto, after: onnx.ModelProto, requests: Requests) -> None:
    """Raise for the first tensor that differs between the two models; equal tensors have equal names."""
    first, second = (next(run_each(watched(model).SerializeToString(), requests)) for model in (before, after))
    producer = Index.of(after.graph).producer
    for name in [name for name in first if name in second]:
        if not _equal(first[name], second[name]):
            node = producer.get(name)
            operator = "an operator" if node is None else f"{node.op_type} {node.name or name!r}"
            raise ConfigError(
                f"opset {opset_of(after)}: {operator} gives other results than in opset {opset_of(before)}; "
                "choose a kit that supports the model's opset"
            )


def _equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.dtype.kind != "f":
        return np.array_equal(first, second)
    largest = float(np.abs(first[np.isfinite(first)]).max(initial=0))
    return np.allclose(first, second, rtol=0, atol=TOLERANCE * largest, equal_nan=True)
