"""Rules for QuantizeLinear and DequantizeLinear: their scales, zero points, types and axes.

Every check takes a view of a model and yields the label of each faulty node with a description of the fault.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedistill.export.lint.view import View, WeightedLayer, label

Faults = Iterator[tuple[str, str]]
SAME_STEP = 1e-5
"""The largest relative difference between two scales that count as equal."""


def scales(view: View) -> Faults:
    """Scales that are zero, negative or not finite."""
    for node in view.roundings:
        scale = view.scale(node)
        if scale is None:
            continue
        bad = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)).ravel())
        if bad.size:
            channels = "" if scale.size == 1 else f" in channel {bad[0]}, {bad.size} of {scale.size} channels"
            yield label(node), f"scale {scale.ravel()[bad[0]]:g}{channels}"


def computed_scales(view: View) -> Faults:
    """Scales and zero points that are not stored."""
    for node in view.roundings:
        names = [name for name in node.input[1:3] if name and name not in view.index.stored]
        if names:
            yield label(node), f"'{names[0]}' is computed when the model runs"


def scale_pairs(view: View) -> Faults:
    """DequantizeLinear nodes whose scale differs from that of the QuantizeLinear before them."""
    for node in view.roundings:
        quantizer = view.quantizer(node)
        before, after = None if quantizer is None else view.scale(quantizer), view.scale(node)
        if before is not None and after is not None and not np.array_equal(before, after):
            yield label(node), f"scale {after.flat[0]:g} after QuantizeLinear with scale {before.flat[0]:g}"


def missing_zero_points(view: View) -> Faults:
    """Roundings without a zero point; an int32 bias needs none."""
    for node in view.roundings:
        if len(node.input) > 2 and node.input[2]:
            continue
        stored = view.index.value(node.input[0])
        if stored is None or stored.dtype != np.int32:
            yield label(node), "no zero point is written"


def zero_points_of_activations(view: View) -> Faults:
    """Activations whose zero point is not 0."""
    yield from _zero_points(view, view.heads)


def zero_points_of_weights(view: View) -> Faults:
    """Weights whose zero point is not 0."""
    yield from _zero_points(view, view.weights)


def _zero_points(view: View, nodes: list[onnx.NodeProto]) -> Faults:
    for node in nodes:
        zero = view.zero_point(node)
        if zero is not None and zero.any():
            first = zero.ravel()[np.flatnonzero(zero.ravel())[0]]
            yield label(node), f"zero point {first} ({zero.dtype})"


def types_of_activations(view: View) -> Faults:
    """Activations whose type is not in the kit's encodings."""
    assert view.limits is not None
    wanted = view.limits.activations
    for node in view.heads:
        zero = view.zero_point(node)
        if zero is not None and zero.dtype.name not in wanted:
            yield label(node), f"activations are {zero.dtype.name}, not {' or '.join(sorted(wanted))}"


def axes_of_activations(view: View) -> Faults:
    """Activations with a scale for each channel, except those that only depthwise convolutions read."""
    for node, scale in _scales_by_channel(view):
        if not _only_depthwise(view, node):
            yield label(node), f"{scale.size} scales for one activation"


def axes_of_depthwise_activations(view: View) -> Faults:
    """Activations with a scale for each channel that only depthwise convolutions read."""
    for node, scale in _scales_by_channel(view):
        if _only_depthwise(view, node):
            yield label(node), f"{scale.size} scales for the activation of a depthwise convolution"


def _scales_by_channel(view: View) -> Iterator[tuple[onnx.NodeProto, NDArray[np.float64]]]:
    for node in view.heads:
        scale = view.scale(node)
        if scale is not None and scale.size > 1:
            yield node, scale


def _only_depthwise(view: View, rounding: onnx.NodeProto) -> bool:
    """Return whether only depthwise convolutions read a rounding, or the DequantizeLinear after it."""
    names = {rounding.output[0]}
    if rounding.op_type == "QuantizeLinear":
        names = {reader.output[0] for reader in view.readers.get(rounding.output[0], ())}
    depthwise = {layer.node.output[0] for layer in view.layers if _is_depthwise(view, layer)}
    readers = [reader for name in names for reader in view.readers.get(name, ())]
    return bool(readers) and all(reader.output[0] in depthwise for reader in readers)


def _is_depthwise(view: View, layer: WeightedLayer) -> bool:
    *_, stored = (layer.weight, *(node.input[0] for node in view.before(layer.weight)))
    weight = view.index.value(stored)
    groups = next((entry.i for entry in layer.node.attribute if entry.name == "group"), 1)
    return layer.node.op_type == "Conv" and groups > 1 and weight is not None and weight.shape[1] == 1


def axes_of_weights(view: View) -> Faults:
    """Weights whose scales are not along the axis of the layer's outputs."""
    for layer in view.layers:
        kind, axis, dequantizer = layer.node.op_type, view.axis_of_scales(layer), view.dequantizer_of_weight(layer)
        if dequantizer is not None and any(entry.name == "block_size" and entry.i for entry in dequantizer.attribute):
            yield label(layer.node), f"the weight of this {kind} has scales for blocks, not for outputs"
        elif axis is not None and axis != layer.axis:
            yield label(layer.node), f"the weight of this {kind} has its scales on axis {axis}, not {layer.axis}"


def float_weights(view: View) -> Faults:
    """Weights that are stored as floats and rounded when the model runs."""
    for node in view.roundings:
        stored = view.index.value(node.input[0])
        if node.op_type == "QuantizeLinear" and stored is not None:
            yield label(node), f"{stored.nbytes:,} bytes of floats are stored, to be rounded when the model loads"


def types_of_biases(view: View) -> Faults:
    """Biases of quantized layers whose type is not in the kit's encodings."""
    assert view.limits is not None
    for layer, dequantizer in _biases(view):
        integers = None if dequantizer is None else view.index.value(dequantizer.input[0])
        name = "float" if dequantizer is None else "a rounded float" if integers is None else integers.dtype.name
        if name not in view.limits.biases:
            yield label(layer.adds_bias), f"the bias is {name}, not {' or '.join(sorted(view.limits.biases))}"


def scales_of_biases(view: View) -> Faults:
    """Integer biases whose scale is not input scale times weight scale."""
    for layer, dequantizer in _biases(view):
        integers = None if dequantizer is None else view.index.value(dequantizer.input[0])
        if dequantizer is None or integers is None or integers.dtype != np.int32:
            continue
        bias, product = view.scale(dequantizer), _step(view, layer)
        if bias is not None and product is not None:
            other = np.broadcast_to(np.abs(bias - product) > SAME_STEP * np.abs(product), integers.shape)
            count = int((other & (integers != 0)).sum())
            if count:
                yield label(layer.adds_bias), f"{count} steps of the bias are not input scale times weight scale"


def _step(view: View, layer: WeightedLayer) -> NDArray[np.float64] | None:
    """Return the step of a quantized layer's integer products, or None where a scale is computed."""
    nodes = view.trace(layer.data).dequantizer, view.dequantizer_of_weight(layer)
    data, weight = (None if node is None else view.scale(node) for node in nodes)
    return None if data is None or weight is None else data * weight


def _biases(view: View) -> Iterator[tuple[WeightedLayer, onnx.NodeProto | None]]:
    """Yield each quantized layer with a bias, and the DequantizeLinear of the bias, if it has one."""
    for layer in view.layers:
        if layer.bias is not None and view.quantized(layer):
            yield layer, view.index.dequantizer(layer.bias)
