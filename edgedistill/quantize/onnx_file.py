"""Post-training int8 quantization of any float ONNX model, in the encoding of edgedistill's own exports."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgedistill.data.sources import Array
from edgedistill.errors import ConfigError
from edgedistill.graphs.canonical import canonical
from edgedistill.graphs.index import Edits
from edgedistill.graphs.rounding import HIGHEST, UNSIGNED, least_scale, quantized_weight, rounded_bias, weight_scale
from edgedistill.graphs.run import Requests, run_each
from edgedistill.quantize.float_results import ChannelRanges, last_results, leading_to_quantized, leave_in_float
from edgedistill.quantize.onnx_graph import OnnxGraph
from edgedistill.quantize.placement import Graph, Placement, place
from edgedistill.quantize.ranges import MagnitudeHistogram
from edgedistill.records.base import Ranges, Scheme
from edgedistill.runtime.progress import Advance

SIGNED: Final = Scheme()


class Rounding(NamedTuple):
    """A tensor's scale, and the zero point 0 in the tensor's integer type."""

    scale: np.float32
    zero: np.int8 | np.uint8


class _WeightForm(NamedTuple):
    """`is_last` is true if nothing after the layer is quantized; its channels may then have units of any size."""

    is_last: bool
    narrow: bool


def quantize_onnx(
    model: onnx.ModelProto,
    requests: Requests,
    skip: tuple[str, ...] = (),
    ranges: Ranges = "mse",
    scheme: Scheme = SIGNED,
    advance: Advance | None = None,
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a float model in int8, and the form of each layer, by the name of its node.

    A form is "int8", "int8, result in float: reason" or "float: reason".

    Args:
        model: a float32 model of fixed shapes, opset 13 or later, without control flow, whose nodes have names.
        requests: for each input, real data (R, *the input's shape) to calibrate with.
        skip: names of the layers' nodes to leave in float.
        ranges: the method for a tensor's range, as in `calibrate`.
        scheme: signed or unsigned activations, full or narrow weights. With unsigned ones, an input of the model that is
            never negative in `requests` is unsigned too.
        advance: called after each request.

    Raises:
        ConfigError: no layer can be quantized, `skip` has an unknown name, or an intermediate value is not finite.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    described = OnnxGraph(result)
    placement = place(described.graph, skip)
    layers = [name for name in placement.layers if described.nodes[name].op_type != "Gather"]
    if not layers:
        reasons = "; ".join(sorted(set(placement.report.values()))) or "the model has no convolution or dense layer"
        raise ConfigError(f"no layer can be quantized: {reasons}")
    channels = last_results(model, described.graph, placement)
    histograms = _histograms(model, described.graph, placement, channels, requests, advance)
    leave_in_float(described.graph, placement, channels)
    inside = leading_to_quantized(model, described.graph, placement)
    nonnegative = {name for name in requests if name in histograms and histograms[name].lowest >= 0}
    unsigned = described.graph.never_negative(nonnegative) if scheme.activations == "unsigned" else frozenset()
    roundings = {name: _rounding(one, ranges, unsigned=name in unsigned) for name, one in histograms.items()}
    with Edits(result.graph) as edits:
        scales = _insert(described, edits, placement, roundings)
        _store_tables(edits, [described.nodes[name] for name in placement.layers if name not in layers])
        for layer in layers:
            is_last = layer not in inside and layer not in placement.results
            form = _WeightForm(is_last=is_last, narrow=scheme.weights == "narrow")
            _quantize_parameters(described, edits, described.nodes[layer], scales[layer], form)
    return canonical(result), placement.report


def _rounding(histogram: MagnitudeHistogram, ranges: Ranges, *, unsigned: bool) -> Rounding:
    most = UNSIGNED[1] if unsigned else HIGHEST
    return Rounding(np.float32(histogram.bound(ranges, most) / most), np.uint8(0) if unsigned else np.int8(0))


def _histograms(
    model: onnx.ModelProto,
    graph: Graph,
    placement: Placement,
    channels: dict[str, ChannelRanges],
    requests: Requests,
    advance: Advance | None,
) -> dict[str, MagnitudeHistogram]:
    """Run the float model, return the magnitudes of each tensor to quantize, and fill the ranges of `channels`."""
    histograms = {name: MagnitudeHistogram() for name in placement.origins.values()}
    watching = onnx.ModelProto()
    watching.CopyFrom(model)
    known = {output.name for output in watching.graph.output} | set(requests)
    watching.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in histograms if name not in known
    )
    floors = {name: graph.floor(name) for name in histograms}
    for request, answer in enumerate(run_each(watching.SerializeToString(), requests)):
        for name, histogram in histograms.items():
            value, floor = requests[name][request] if name in requests else answer[name], floors[name]
            histogram.update(value if floor is None else np.maximum(value, np.float32(floor)))
        for name, ranges in channels.items():
            ranges.update(answer[name])
        if advance is not None:
            advance(1, "")
    return histograms


def _insert(
    described: OnnxGraph, edits: Edits, placement: Placement, roundings: dict[str, Rounding]
) -> dict[str, np.float32]:
    """Insert Q/DQ for all activations, and return the input scale of each operation that reads Q/DQ, by name."""
    kinds = dict.fromkeys(zero.dtype for _, zero in roundings.values())
    zeros = {kind: edits.store("zero_point", np.zeros((), kind)) for kind in kinds}
    restored: dict[str, str] = {}
    for name, origin in placement.origins.items():
        step, zero = roundings[origin].scale, zeros[roundings[origin].zero.dtype]
        scale = edits.store(f"{name}_scale", np.array(step))
        integers, restored[name] = (edits.names.new(f"{name}_{part}") for part in ("int8", "rounded"))
        edits.insert_after(
            edits.index.producer.get(name),
            helper.make_node("QuantizeLinear", [name, scale, zero], [integers], name=integers),
            helper.make_node("DequantizeLinear", [integers, scale, zero], [restored[name]], name=restored[name]),
        )
    found: dict[str, np.float32] = {}
    for reader, index in placement.edges:
        name = described.graph.operations[reader].inputs[index]
        described.nodes[reader].input[index] = restored[name]
        found[reader] = roundings[placement.origins[name]].scale
    for name in placement.results:
        for node in described.index.users[name]:
            _replace(node, name, restored[name])
    return found


def _replace(node: onnx.NodeProto, old: str, new: str) -> None:
    for place_, name in enumerate(node.input):
        if name == old:
            node.input[place_] = new


def _quantize_parameters(
    described: OnnxGraph, edits: Edits, layer: onnx.NodeProto, scale: np.float32, form: _WeightForm
) -> None:
    """Store a layer's weight as int8 with a scale for each output channel, and round its bias to int32 steps."""
    stored = described.index.value(layer.input[1])
    assert stored is not None
    axis = 1 if layer.op_type == "MatMul" else 0
    if layer.op_type == "Gemm" and not _transposed(layer):
        stored = stored.T
        for written in [entry for entry in layer.attribute if entry.name == "transB"]:
            layer.attribute.remove(written)
        layer.attribute.append(helper.make_attribute("transB", 1))
    rows = np.ascontiguousarray(stored.T if axis else stored)
    bias = _stored_bias(described, layer, len(rows))
    least = least_scale(rows, bias, scale) if form.is_last else None
    narrow = form.narrow and not _is_depthwise(layer, rows)
    weight, steps = quantized_weight(rows, least, narrow=narrow)
    integers = np.ascontiguousarray(weight.T if axis else weight)
    values = {"int8": integers, "scale": steps, "zero": np.zeros(steps.shape, np.int8)}
    names = [edits.store(f"{layer.name}_weight_{part}", value) for part, value in values.items()]
    restored = edits.names.new(f"{layer.name}_weight_rounded")
    edits.insert_before(layer, helper.make_node("DequantizeLinear", names, [restored], name=restored, axis=axis))
    layer.input[1] = restored
    adds = described.bias(layer)
    if adds is not None and bias is not None:
        rounded = rounded_bias(bias, scale * weight_scale(rows, least, narrow=narrow))
        adds.node.input[adds.place] = edits.store(f"{layer.name}_bias_rounded", rounded)


def _store_tables(edits: Edits, gathers: list[onnx.NodeProto]) -> None:
    """Store the tables of embeddings as int8 with a scale for each column; a table that several read is stored once."""
    restored: dict[str, str] = {}
    for gather in gathers:
        name = gather.input[0]
        if name not in restored:
            table = edits.index.value(name)
            assert table is not None
            integers, steps = quantized_weight(np.ascontiguousarray(table.T))
            values = {
                "int8": np.ascontiguousarray(integers.T),
                "scale": steps,
                "zero": np.zeros(steps.shape, np.int8),
            }
            stored = [edits.store(f"{name}_{part}", value) for part, value in values.items()]
            restored[name] = edits.names.new(f"{name}_rounded")
            edits.insert_before(
                gather, helper.make_node("DequantizeLinear", stored, [restored[name]], name=restored[name], axis=1)
            )
        gather.input[0] = restored[name]


def _stored_bias(described: OnnxGraph, layer: onnx.NodeProto, channels: int) -> Array | None:
    """Return a layer's stored bias if it has one value for each channel."""
    adds = described.bias(layer)
    bias = None if adds is None else described.index.value(adds.node.input[adds.place])
    return None if bias is None or bias.shape != (channels,) else bias


def _is_depthwise(layer: onnx.NodeProto, rows: Array) -> bool:
    """Return whether a layer is a convolution of each channel alone; kernels add no pairs of its products in 16 bits."""
    groups = next((attribute.i for attribute in layer.attribute if attribute.name == "group"), 1)
    return layer.op_type == "Conv" and groups != 1 and rows.shape[1] == 1


def _transposed(layer: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in layer.attribute)
