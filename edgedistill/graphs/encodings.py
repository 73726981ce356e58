"""Int8 encodings: rewrite a canonical int8 model so that an engine runs its layers in integer arithmetic.

TensorRT requires signed activations and float biases. ONNX Runtime has integer layers only for int32 biases whose scale is
input scale times weight scale, and on x86 only for unsigned activations. QuantizeLinear must follow the layer directly,
so a ReLU between the two becomes a clip of the integers after QuantizeLinear, which is the same function.
OpenVINO on x86 multiplies unsigned integers directly, and signed ones at extra cost, so ReLU outputs are unsigned.
ONNX Runtime on x86 reads few input channels slowly, so channels of zeros are added there: input_channels.py. Of pictures it can read the
8-bit pixels themselves: pixels.py.
A model that was quantized with unsigned activations has u8-f32 as its canonical form, and no signed form. In u8-f32 a
QuantizeLinear performs the ReLU itself, at no cost.
OpenVINO restores int8 weights inside its float kernels, and ONNX Runtime has a kernel for dense layers with dynamic inputs.
A strongly typed engine (TensorRT 10 optionally, 11 always) computes in the types of the file, so the float parts and the
scales must be float16 in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgedistill.errors import ConfigError
from edgedistill.graphs.dynamic import with_dynamic_inputs, with_float_inputs
from edgedistill.graphs.float16 import to_float16
from edgedistill.graphs.index import Edits, Index, Names, axis_of, drop_unread, lift_constants
from edgedistill.graphs.input_channels import pad_input_channels
from edgedistill.graphs.metadata import annotate
from edgedistill.graphs.nonnegative import constant_bounds, write_unsigned_where_nonnegative
from edgedistill.graphs.opset import opset_of
from edgedistill.graphs.pair_sums import MARK, sums_fit
from edgedistill.graphs.pixels import MARK as PIXELS
from edgedistill.graphs.pixels import read_pixels
from edgedistill.kits.kits import FLOAT16_OPSET
from edgedistill.records.base import Activations, Encoding

INTEGER = {"Conv", "Gemm", "MatMul", "Add"}
PROTECTED = {"Conv", "ConvTranspose", "Gemm"}
"""The layers whose float weights ONNX Runtime may round."""
SHIFT = 128
INT32 = np.iinfo(np.int32)
Integers = type[np.int8] | type[np.uint8]
REWRITES: Final[dict[Encoding, Callable[[onnx.ModelProto], onnx.ModelProto]]] = {
    "dyn-i32": lambda model: with_dynamic_inputs(model)[0], "w8-f32": with_float_inputs,
}  # fmt: skip
"""What removes static scales of activations."""
UNSIGNED: Final[frozenset[Encoding]] = frozenset({"u8-i32", "dyn-i32"})
"""The encodings whose integer layers read unsigned activations, so that the first one can read the pixels of a picture: pixels.py."""


def encode(
    model: onnx.ModelProto, encoding: Encoding, float32: Collection[str] = (), *, pixels: bool = True
) -> onnx.ModelProto:
    """Return a copy of a canonical int8 model ("s8-f32" or, with unsigned activations, "u8-f32") in another encoding.

    Weights and static activations represent the same numbers in every encoding, and an int32 bias is within half a step of the
    float bias. An exception is a first convolution of u8-i32 and dyn-i32 that reads pixels: its weights are rounded again. In dyn-i32 and w8-f32 the weights are the same, but activations are not rounded to the static scales. In s8-f16 the integer weights are the same; scales and biases are rounded to float16, with a relative error
    of at most 1/2048 from 2**-14 on; and an activation that is computed in float16 may be rounded to the next step.

    Args:
        model: the model in its canonical encoding.
        encoding: the encoding to write.
        float32: for s8-f16, the nodes that stay in float32, as `float32_nodes` finds them.
        pixels: for u8-i32 and dyn-i32, whether a first convolution may read the pixels of a picture, which pixels.py explains.

    Raises:
        ConfigError: the model has no QuantizeLinear, is not canonical, has a bias too large for int32, an opset too old
            for float16 scales, or unsigned activations that a signed encoding cannot hold.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    lift_constants(graph)
    _require_canonical(graph)
    if pixels and encoding in UNSIGNED and read_pixels(graph):
        annotate(result, PIXELS)
    if sums_fit(graph):
        annotate(result, MARK)
    unsigned = activations_of(result) == "unsigned"
    if unsigned and encoding.startswith("s8"):
        raise ConfigError(
            f"the model has unsigned activations, but encoding {encoding} needs signed ones: quantize the model with "
            "activations = 'signed'"
        )
    if encoding in REWRITES:
        result = REWRITES[encoding](result)
        graph = result.graph
    if encoding == "s8-f16":
        if opset_of(model) < FLOAT16_OPSET:
            raise ConfigError(
                f"opset {opset_of(model)}: float16 scales need opset {FLOAT16_OPSET} or newer; export in that opset"
            )
        return to_float16(result, float32)
    if encoding == "s8-f32":
        return result
    if encoding == "u8-f32" and not unsigned:
        write_unsigned_where_nonnegative(graph)
    elif encoding.endswith("i32"):
        _write_integer_layers(graph, unsigned=encoding in UNSIGNED)
    _gather_integers(graph)
    drop_unread(graph)
    graph.ClearField("value_info")
    return result


def _write_integer_layers(graph: onnx.GraphProto, *, unsigned: bool) -> None:
    """Rewrite the layers for the integer kernels of ONNX Runtime, with signed or unsigned activations."""
    _write_int32_biases(graph)
    _protect_float_layers(graph)
    bounds = _clip_integers(graph)
    if unsigned:
        _write_unsigned(graph, bounds)
        _separate_weight_zero_points(graph)
        pad_input_channels(graph)


def activations_of(model: onnx.ModelProto) -> Activations:
    """Return whether the activations of a canonical int8 model are signed or unsigned."""
    index = Index.of(model.graph)
    zeros = [
        index.value(node.input[2])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and len(node.input) > 2
    ]
    unsigned = any(zero is not None and zero.dtype == np.uint8 and not zero.any() for zero in zeros)
    return "unsigned" if unsigned else "signed"


def _require_canonical(graph: onnx.GraphProto) -> None:
    index = Index.of(graph)
    if all(node.op_type != "QuantizeLinear" for node in graph.node):
        raise ConfigError("the model has no QuantizeLinear: an encoding is chosen for int8 models only")
    for node in graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        zero = index.value(node.input[2]) if len(node.input) > 2 else None
        allowed = (np.int8,) if node.input[0] in index.stored else (np.int8, np.uint8)
        symmetric = zero is not None and zero.dtype in allowed and not zero.any()
        weight = node.op_type == "QuantizeLinear" and node.input[0] in index.stored
        if not symmetric or weight or node.input[1] not in index.stored:
            raise ConfigError(
                f"{node.op_type} {node.name or node.output[0]!r} is not of encoding s8-f32 or u8-f32 (8 bits with a written "
                "zero point 0, a stored scale, weights stored as int8): export the model again, or use the file as it is"
            )


def _write_int32_biases(graph: onnx.GraphProto) -> None:
    with Edits(graph) as edits:
        for node, place, layer in _biased(graph, edits.index):
            bias = edits.index.value(node.input[place])
            steps = [edits.index.step(name) for name in layer.input[:2]]
            if bias is None or steps[0] is None or steps[1] is None or bias.shape != (steps[1].size,):
                continue
            step = (steps[0].astype(np.float64) * steps[1].astype(np.float64)).astype(np.float32)
            rounded = np.rint(bias.astype(np.float64) / step)
            if rounded.min() < INT32.min or rounded.max() > INT32.max:
                raise ConfigError(
                    f"{node.op_type} {node.name!r} has a bias of {np.abs(bias).max():g} that int32 cannot hold in steps of "
                    f"{step.min():g}: skip this layer in [quantize], or use a kit with float biases (s8-f32, u8-f32)"
                )
            node.input[place] = _store_bias(edits, node, rounded.astype(np.int32), step)


def _protect_float_layers(graph: onnx.GraphProto) -> None:
    """Write the bias of each float layer that reads a dequantized tensor as sign times magnitude, which is exact.

    ONNX Runtime (WeightBiasQuantization, since 1.21) rounds the float weights of a layer between DequantizeLinear and
    QuantizeLinear to int8, per tensor, unless the bias is computed: the layers that int8 hurts most would be int8 after all.
    """
    with Edits(graph) as edits:
        for node in graph.node:
            weight = edits.index.value(node.input[1]) if node.op_type in PROTECTED else None
            if weight is None or weight.dtype != np.float32 or edits.index.dequantizer(node.input[0]) is None:
                continue
            bias = (
                edits.index.value(node.input[2])
                if len(node.input) > 2
                else np.zeros(_outputs(node, weight), np.float32)
            )
            if bias is None or bias.ndim != 1:
                continue
            name = _store_bias(edits, node, np.sign(bias).astype(np.int32), np.where(bias == 0, 1, np.abs(bias)))
            node.input[:] = [*node.input[:2], name]


def _outputs(node: onnx.NodeProto, weight: NDArray[np.generic]) -> int:
    """Return the number of output channels of a layer."""
    attributes = {entry.name: entry.i for entry in node.attribute}
    if node.op_type == "ConvTranspose":
        return weight.shape[1] * attributes.get("group", 1)
    return weight.shape[1] if node.op_type == "Gemm" and not attributes.get("transB", 0) else weight.shape[0]


def _gather_integers(graph: onnx.GraphProto) -> None:
    """Dequantize the rows that an embedding takes, not its whole table in every inference.

    A table with a scale for each row stays as it is: the scales of the rows are not known before the rows are.
    TensorRT, which has no Gather of integers that become floats behind it, keeps the order and stores the table in float.
    """
    with Edits(graph) as edits:
        index = edits.index
        for dequantizer in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
            readers = index.users.get(dequantizer.output[0], ())
            by_row = [node for node in readers if node.op_type == "Gather" and node.input[0] == dequantizer.output[0]]
            if (
                dequantizer.input[0] not in index.stored
                or not by_row
                or len(by_row) < index.readers[dequantizer.output[0]]
                or not all(_keeps_scales(index, dequantizer, gather) for gather in by_row)
            ):
                continue
            edits.remove(dequantizer)
            for gather in by_row:
                rows = edits.names.new(f"{gather.output[0]}_int8")
                restore = onnx.helper.make_node(
                    "DequantizeLinear",
                    [rows, *dequantizer.input[1:]],
                    [gather.output[0]],
                    name=f"{rows}_restored",
                    axis=-1,
                )
                gather.input[0], gather.output[0] = dequantizer.input[0], rows
                edits.insert_after(gather, restore)


def _keeps_scales(index: Index, dequantizer: onnx.NodeProto, gather: onnx.NodeProto) -> bool:
    """Return whether a Gather takes rows of a table that have the same scales: one for all values, or one for each column."""
    table, scale = index.value(dequantizer.input[0]), index.value(dequantizer.input[1])
    if table is None or scale is None:
        return False
    takes_rows = all(attribute.i == 0 for attribute in gather.attribute if attribute.name == "axis")
    by_column = table.ndim > 1 and axis_of(dequantizer) % table.ndim == table.ndim - 1
    return scale.size == 1 or (takes_rows and by_column)


def _biased(graph: onnx.GraphProto, index: Index) -> list[tuple[onnx.NodeProto, int, onnx.NodeProto]]:
    """Return each node that adds a bias, the input index of the bias, and the layer that the bias belongs to."""
    found = [(node, 2, node) for node in graph.node if node.op_type in {"Conv", "Gemm"} and len(node.input) > 2]
    for node in graph.node:
        if node.op_type == "Add":
            terms = [(1 - place, index.producer.get(name)) for place, name in enumerate(node.input)]
            found += [(node, place, layer) for place, layer in terms if layer is not None and layer.op_type == "MatMul"]
    return found


def _store_bias(edits: Edits, node: onnx.NodeProto, bias: NDArray[np.int32], step: NDArray[np.float32]) -> str:
    """Store an int32 bias and its scales in front of a node, and return the name of the dequantized bias."""
    name = f"bias_{node.output[0]}"
    stored, scale = edits.store(f"{name}_int32", bias), edits.store(f"{name}_scale", step)
    restored = edits.names.new(f"{name}_dequantized")
    dequantizer = onnx.helper.make_node("DequantizeLinear", [stored, scale], [restored], name=restored, axis=0)
    edits.insert_before(node, dequantizer)
    return restored


def _clip_integers(graph: onnx.GraphProto) -> list[str]:
    """Turn layer, ReLU, Q into layer, Q, integer clip, and return the names of the clips' bounds.

    A clip to the full range of the integer type is left out.

    Rounding keeps order, so Q(clip(x, a, b)) is clip(Q(x), Q(a), Q(b)) for every x.
    """
    stored: list[str] = []
    with Edits(graph) as edits:
        index = edits.index
        for quantizer in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
            activation = index.producer.get(quantizer.input[0])
            if activation is None or index.readers[quantizer.input[0]] != 1:
                continue
            bounds = _bounds(index, activation)
            if bounds is None:
                continue
            kind = np.int8 if _is_signed(index, quantizer.input[2]) else np.uint8
            integer_bounds = [_on_grid(bound, index.value(quantizer.input[1]), kind) for bound in bounds]
            edits.remove(activation)
            if integer_bounds == [np.iinfo(kind).min, np.iinfo(kind).max]:
                quantizer.input[0] = activation.input[0]
                continue
            names = [_stored_bound(edits, bound, kind) for bound in integer_bounds]
            integers = edits.names.new(f"{quantizer.output[0]}_unclipped")
            clip = onnx.helper.make_node("Clip", [integers, *names], [quantizer.output[0]], name=f"{integers}_clip")
            quantizer.input[0], quantizer.output[0] = activation.input[0], integers
            edits.insert_after(quantizer, clip)
            stored += names
    return stored


def _bounds(index: Index, activation: onnx.NodeProto) -> tuple[float, float] | None:
    """Return the bounds of a ReLU or a clip between constants that follows an integer layer or addition."""
    layer = index.producer.get(activation.input[0]) if activation.input else None
    if layer is None or layer.op_type not in INTEGER or index.readers[activation.input[0]] != 1:
        return None
    layer = _with_bias_added(index, layer)
    if any(index.dequantizer(name) is None for name in layer.input[:2]):
        return None
    return constant_bounds(index, activation)


def _with_bias_added(index: Index, node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the MatMul for an Add of its bias; return any other node unchanged."""
    for name, other in (node.input[:2], node.input[1::-1]):
        layer, bias = index.producer.get(name), index.dequantizer(other)
        is_stored = other in index.stored or (bias is not None and bias.input[0] in index.stored)
        if node.op_type == "Add" and layer is not None and layer.op_type == "MatMul" and is_stored:
            return layer
    return node


def _on_grid(bound: float, scale: np.ndarray | None, kind: Integers) -> int:
    assert scale is not None
    return int(np.clip(np.rint(np.float32(bound) / scale), np.iinfo(kind).min, np.iinfo(kind).max))


def _stored_bound(edits: Edits, bound: int, kind: Integers) -> str:
    return edits.store(f"{kind.__name__}_{'minus_' if bound < 0 else ''}{abs(bound)}", np.array(bound, kind))


def _write_unsigned(graph: onnx.GraphProto, bounds: list[str]) -> None:
    """Add 128 to the activations' signed integers: zero points and the bounds of clips; weights stay int8."""
    index = Index.of(graph)
    zero = Names.of(graph).new("zero_point_128")
    graph.initializer.append(numpy_helper.from_array(np.array(SHIFT, np.uint8), zero))
    for node in graph.node:
        on_activation = node.op_type == "QuantizeLinear" or (
            node.op_type == "DequantizeLinear" and node.input[0] not in index.stored
        )
        if on_activation and _is_signed(index, node.input[2]):
            node.input[2] = zero
    for name in bounds:
        bound = index.value(name)
        if bound is not None and bound.dtype == np.int8:
            shifted = np.array(int(bound) + SHIFT, np.uint8)
            index.stored[name].CopyFrom(numpy_helper.from_array(shifted, name))


def _separate_weight_zero_points(graph: onnx.GraphProto) -> None:
    """Store a separate zero point for each weight.

    On x86 without VNNI, products of unsigned activations and signed weights overflow 16 bits unless ONNX Runtime makes the
    weights unsigned (session.x64quantprecision), and it fails on a zero point that two weights share.
    """
    index, names, seen = Index.of(graph), Names.of(graph), set[str]()
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in index.stored or len(node.input) < 3:
            continue
        zero = node.input[2]
        if zero in seen:
            node.input[2] = names.new(f"{node.input[0]}_zero_point")
            copy = onnx.TensorProto()
            copy.CopyFrom(index.stored[zero])
            copy.name = node.input[2]
            graph.initializer.append(copy)
        seen.add(zero)


def _is_signed(index: Index, name: str) -> bool:
    value = index.value(name)
    return value is not None and value.dtype == np.int8
