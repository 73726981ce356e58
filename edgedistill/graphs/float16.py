"""Convert a float32 model to float16, except nodes with values outside float16; inputs and outputs stay float32.

ONNX Runtime's converter rounds stored tensors to the nearest float16 value without a warning, and inserts casts to float16
between two float32 nodes. So this module chooses the nodes that stay in float32 from real data, and removes those casts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import TensorProto, defs

from edgedistill.errors import ConfigError
from edgedistill.graphs.index import Edits, Index, Names, drop_unread, lift_constants, name_nodes
from edgedistill.graphs.opset import opset_of
from edgedistill.graphs.run import Requests, run_each
from edgedistill.graphs.watch import watched

LARGEST = float(np.finfo(np.float16).max)
HEADROOM = 4.0
"""This multiple of the largest observed value must fit into float16: later inputs may exceed the observed value."""
MOST_LOST = 1 / 512
"""The largest permitted rounding error of a tensor, as a fraction of its largest value; normal numbers have 1/4096."""
ROUNDING: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
STAYS_FLOAT32: Final = {("Resize", 2)}
"""Inputs that are float32 in every model: (operator, input index)."""


def float32_nodes(model: onnx.ModelProto, requests: Requests) -> tuple[str, ...]:
    """Return the names of the nodes that must stay in float32, in the order of the graph.

    These nodes read or write a tensor that, on these requests, has a value above a quarter of the largest float16 number or
    a rounding error above 1/512 of the tensor's largest value; or their operator has no float16 form. A stored tensor may
    have values up to the largest float16 number.

    Args:
        model: a float32 model, or an int8 one of encoding s8-f32, of fixed shapes.
        requests: for each input, an array of shape (R, *the input's shape), of real data.
    """
    copy = _named(model)
    graph = copy.graph
    unfit = set(_unfit_stored(graph)) | set(_unfit_computed(copy, requests))
    kept = {
        node.name
        for node in graph.node
        if not unfit.isdisjoint(name for name in (*_floating(node), *node.output) if name)
        or not _takes_float16(node, opset_of(copy))
    }
    kept = _closed(graph, kept)
    return tuple(node.name for node in graph.node if node.name in kept)


def to_float16(model: onnx.ModelProto, float32: Collection[str] = ()) -> onnx.ModelProto:
    """Return a copy of a model that computes in float16, except the named nodes.

    Args:
        model: as for `float32_nodes`; without control flow.
        float32: the names of the nodes that stay in float32, as `float32_nodes` returns them.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = _named(model)
    _copy_shared_tensors(copy.graph, frozenset(float32))
    converted = convert_float_to_float16(copy, keep_io_types=True, op_block_list=[], node_block_list=list(float32))
    _remove_round_trip_casts(converted)
    drop_unread(converted.graph)
    converted.graph.ClearField("value_info")
    result = onnx_ir.from_proto(converted)
    result.graph.sort()  # the converter appends its casts at the end
    model = onnx_ir.to_proto(result)
    onnx.checker.check_model(model, full_check=True)
    return model


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    lift_constants(copy.graph)
    name_nodes(copy.graph)
    for node in copy.graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise ConfigError(
                f"{node.op_type} {node.name!r} contains a subgraph, which cannot be converted to float16; "
                "use fp32, or export the model without control flow"
            )
    return copy


def _floating(node: onnx.NodeProto) -> Iterator[str]:
    """Yield a node's inputs, except those that are float32 in float16 models too."""
    for place, name in enumerate(node.input):
        if name and (node.op_type, place) not in STAYS_FLOAT32:
            yield name


def _unfit_stored(graph: onnx.GraphProto) -> Iterator[str]:
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = onnx.numpy_helper.to_array(tensor)
            largest, error = _magnitudes(value)
            if largest > LARGEST or error > MOST_LOST * largest:
                yield tensor.name


def _unfit_computed(model: onnx.ModelProto, requests: Requests) -> Iterator[str]:
    largest: dict[str, float] = defaultdict(float)
    error: dict[str, float] = defaultdict(float)
    answers = run_each(watched(model).SerializeToString(), requests)
    for request, answer in enumerate(answers):
        for name, value in {**answer, **{name: values[request] for name, values in requests.items()}}.items():
            if value.dtype == np.float32:
                found = _magnitudes(value)
                largest[name], error[name] = max(largest[name], found[0]), max(error[name], found[1])
    for name, most in largest.items():
        if most * HEADROOM > LARGEST or error[name] > MOST_LOST * most:
            yield name


def _magnitudes(value: NDArray[Any]) -> tuple[float, float]:
    """Return the largest finite magnitude in a tensor, and the largest error of its values in float16."""
    finite = value[np.isfinite(value)]
    rounded = finite.clip(-LARGEST, LARGEST).astype(np.float16).astype(np.float32)
    return float(np.abs(finite).max(initial=0)), float(np.abs(finite - rounded).max(initial=0))


def _takes_float16(node: onnx.NodeProto, opset: int) -> bool:
    """Return whether an operator that takes float32 also takes float16."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if any((node.op_type, place) in STAYS_FLOAT32 for place in range(len(node.input))):
        return True
    schema = defs.get_schema(node.op_type, opset, "")
    ends = ((node.input, schema.inputs), (node.output, schema.outputs))
    used = [formal.types for names, formals in ends for name, formal in zip(names, formals, strict=False) if name]
    return all("tensor(float16)" in types for types in used if "tensor(float)" in types)


def _closed(graph: onnx.GraphProto, kept: set[str]) -> set[str]:
    """Add the Q/DQ around nodes that stay in float32: a cast between Q/DQ and a layer prevents integer execution."""
    index = Index.of(graph)
    producer = index.producer
    kept, todo = set(kept), [node for node in graph.node if node.name in kept]
    while todo:
        node = todo.pop()
        near = [producer[name] for name in node.input if name in producer and node.op_type not in ROUNDING]
        near = [maker for maker in near if maker.op_type == "DequantizeLinear"]
        following = [reader for name in node.output for reader in index.users.get(name, ())]
        near += [reader for reader in following if node.op_type == "DequantizeLinear" or reader.op_type in ROUNDING]
        for other in near:
            if other.name not in kept:
                kept.add(other.name)
                todo.append(other)
    return kept


def _copy_shared_tensors(graph: onnx.GraphProto, float32: frozenset[str]) -> None:
    """Copy the stored tensors that nodes in float32 and other nodes share."""
    stored, names = Index.of(graph).stored, Names.of(graph)
    shared = {name for node in graph.node if node.name not in float32 for name in node.input if name in stored}
    copies: dict[str, str] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if node.name in float32 and name in shared and stored[name].data_type == TensorProto.FLOAT:
                if name not in copies:
                    copies[name] = names.new(f"{name}_float32")
                    graph.initializer.add().CopyFrom(stored[name])
                    graph.initializer[-1].name = copies[name]
                node.input[place] = copies[name]


def _remove_round_trip_casts(model: onnx.ModelProto) -> None:
    """Remove casts from float32 to float16 and back."""
    graph = model.graph
    known = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*known.input, *known.value_info, *known.output)}
    outputs = {output.name for output in graph.output}
    origins: dict[str, str] = {}
    with Edits(graph) as edits:
        for back in [node for node in graph.node if _casts_to(node, TensorProto.FLOAT)]:
            there = edits.index.producer.get(back.input[0])
            if (
                there is None
                or not _casts_to(there, TensorProto.FLOAT16)
                or types.get(there.input[0]) != TensorProto.FLOAT
            ):
                continue
            if back.output[0] in outputs:
                back.op_type, back.input[0] = "Identity", there.input[0]
                del back.attribute[:]
            else:
                origins[back.output[0]] = there.input[0]
                edits.remove(back)
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name in origins:
                    node.input[place] = _origin(origins, name)
    _drop_dead_casts(graph)


def _origin(origins: dict[str, str], name: str) -> str:
    """Follow a tensor back through removed casts to the original tensor."""
    while name in origins:
        name = origins[name]
    return name


def _drop_dead_casts(graph: onnx.GraphProto) -> None:
    with Edits(graph) as edits:
        for node in graph.node:
            if node.op_type == "Cast" and not edits.index.readers[node.output[0]]:
                edits.remove(node)


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(
        attribute.name == "to" and attribute.i == kind for attribute in node.attribute
    )


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 model that emulates a float16 model: each float16 result is rounded to float16.

    Float16 inputs stay, and float16 outputs become float32. ONNX Runtime cannot show float16's rounding: on CPUs it computes most float16 operators in float32, and does not round
    the tensors between two operators, so that no intermediate tensor overflows.
    """
    known = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    half = {value.name for value in (*known.value_info, *known.output) if _is_float16(value)}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    graph.ClearField("value_info")
    for tensor in graph.initializer:
        _widen(tensor)
    for value in graph.output:
        if value.name in half:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = list(graph.node)
    del graph.node[:]
    wide = {value.name: f"{value.name}/float32" for value in graph.input if _is_float16(value)}
    graph.node.extend(onnx.helper.make_node("Cast", [name], [to], to=TensorProto.FLOAT) for name, to in wide.items())
    for node in nodes:
        node.input[:] = [wide.get(name, name) for name in node.input]
        for attribute in node.attribute:
            _widen(attribute.t)
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        casts = []
        for place, name in enumerate(node.output):
            if name in half:
                node.output[place], rounded = f"{name}/exact", f"{name}/float16"
                casts.append(onnx.helper.make_node("Cast", [node.output[place]], [rounded], to=TensorProto.FLOAT16))
                casts.append(onnx.helper.make_node("Cast", [rounded], [name], to=TensorProto.FLOAT))
        graph.node.extend([node, *casts])
    return result


def _is_float16(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        )
