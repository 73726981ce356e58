"""Int8 convolutions that read the pixels of a picture: the normalization becomes a part of their weights.

A file that takes raw pictures converts them to float, normalizes them and rounds them to int8 for its first convolution. The pixels are 8-bit
integers already, and ONNX Runtime can multiply them directly (benchmarks/quantize/pixels.json).
The convolution pads a normalized picture with zeros, and no value of a pixel is zero in every channel after normalization. So a fourth
channel is 255 inside the picture and carries the offset; in the padding it is 0, as the other channels are.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgedistill.graphs.index import Edits, Index, axis_of
from edgedistill.graphs.input_channels import MULTIPLE
from edgedistill.graphs.pair_sums import pairs_fit
from edgedistill.graphs.rounding import per_channel, quantized_weight

MARK: Final = {"edgedistill.first_layer": "pixels"}
"""The metadata of a file with such a convolution."""
CHANNELS: Final = MULTIPLE - 1
"""Pictures in colour only: a grey one would get three channels more, and its convolution four times the products."""
MOST_TAPS: Final = 49
"""With larger kernels, as of a ViT, the fourth channel costs more than the normalization."""
BRIGHTEST: Final = 255
CHANNELS_FIRST: Final = [0, 3, 1, 2]


class Layer(NamedTuple):
    """A convolution with int8 weights: its node, what dequantizes its input and its weights, and the weights as floats (O, C, H, W)."""

    node: onnx.NodeProto
    activation: onnx.NodeProto
    stored: onnx.NodeProto
    weight: NDArray[np.float64]


class Normalization(NamedTuple):
    """The nodes between a uint8 input and its convolution, the last first, and what they compute: gain * pixel + offset, both (C,)."""

    entry: onnx.ValueInfoProto
    nodes: list[onnx.NodeProto]
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]


def read_pixels(graph: onnx.GraphProto) -> bool:
    """Let int8 convolutions of a canonical graph read the pixels of its uint8 inputs where a normalization stands between the two.

    Returns whether there is such a convolution. The weights are rounded to int8 once more; the pixels are no longer rounded, nor limited to the range of the calibration.
    """
    pictures = {
        value.name: value for value in graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    found = False
    with Edits(graph) as edits:
        for node in [node for node in graph.node if node.op_type == "Conv" and pictures]:
            layer = _layer(edits.index, node)
            normalization = None if layer is None else _normalization(edits.index, layer, pictures)
            if layer is not None and normalization is not None:
                _merge(edits, layer, normalization)
                found = True
    return found


def _layer(index: Index, node: onnx.NodeProto) -> Layer | None:
    """Return a convolution of three channels whose weights and input are quantized and read by it alone, or None."""
    activation, stored = (index.dequantizer(name) for name in node.input[:2])
    if activation is None or stored is None:
        return None
    weight, step = index.value(stored.input[0]), index.value(stored.input[1])
    alone = all(index.readers[name] == 1 for name in (*node.input[:2], stored.input[0]))
    if weight is None or step is None or not alone or weight.ndim != 4 or weight.shape[1] != CHANNELS:
        return None
    computed_bias = any(name not in index.stored for name in node.input[2:])
    if step.shape != weight.shape[:1] or axis_of(stored) != 0 or weight[0, 0].size > MOST_TAPS or computed_bias:
        return None
    return Layer(node, activation, stored, weight * per_channel(step.astype(np.float64), weight))


def _normalization(index: Index, layer: Layer, pictures: dict[str, onnx.ValueInfoProto]) -> Normalization | None:
    """Return how a picture (N, H, W, C) becomes the input of a layer, or None where other nodes stand between the two."""
    nodes, name = list[onnx.NodeProto](), layer.activation.input[0]
    for operator in ("QuantizeLinear", "BatchNormalization", "Transpose", "Cast"):
        node = index.producer.get(name)
        if node is None or node.op_type != operator or index.readers[name] != 1:
            return None
        nodes.append(node)
        name = node.input[0]
    _, normalize, transpose, _ = nodes
    sizes = _sizes(pictures[name]) if name in pictures else []
    values = [index.value(one) for one in normalize.input[1:5]]
    order = next((list(entry.ints) for entry in transpose.attribute if entry.name == "perm"), None)
    is_picture = len(sizes) == 4 and all(sizes) and sizes[-1] == CHANNELS and order == CHANNELS_FIRST
    if not is_picture or any(value is None for value in values):
        return None
    factor, shift, mean, variance = (np.asarray(value, np.float64) for value in values)
    epsilon = next((entry.f for entry in normalize.attribute if entry.name == "epsilon"), 1e-5)
    gain = factor / np.sqrt(variance + epsilon)
    return Normalization(pictures[name], nodes, gain, shift - mean * gain) if gain.all() else None


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    """Return the shape of an input; an axis of any length is 0."""
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _merge(edits: Edits, layer: Layer, normalization: Normalization) -> None:
    gain, offset = (values.reshape(1, -1, 1, 1) for values in normalization[2:])
    inside = (layer.weight * offset).sum(1, keepdims=True) / BRIGHTEST
    wanted = np.concatenate([layer.weight * gain, inside], 1).astype(np.float32)
    weight, step = quantized_weight(wanted, narrow=pairs_fit(edits.index, layer.node))
    # Pixels are never about zero, so the errors of the weights move every answer by the same amount: the bias takes it back.
    usual = np.append(np.clip(-offset / gain, 0, BRIGHTEST), BRIGHTEST)
    moved = ((weight * per_channel(step, weight) - wanted).sum((2, 3), dtype=np.float64) * usual).sum(1)
    bias = sum((numpy_helper.to_array(edits.index.stored[name]) for name in layer.node.input[2:]), -moved)
    name = layer.stored.input[0]
    layer.stored.input[0] = edits.store(f"{name}_of_pixels", weight)
    layer.stored.input[1] = edits.store(f"{name}_of_pixels_scale", step)
    layer.node.input[2:] = [edits.store(f"{layer.node.output[0]}_bias", bias.astype(np.float32))]
    grid = [edits.store("pixel_scale", np.array(1, np.float32)), edits.store("pixel_zero_point", np.array(0, np.uint8))]
    layer.activation.input[:] = [_four_channels(edits, layer, normalization.entry), *grid]
    for node in normalization.nodes:
        edits.remove(node)


def _four_channels(edits: Edits, layer: Layer, entry: onnx.ValueInfoProto) -> str:
    """Add the nodes that put the channels first and append one that is 255 inside the picture; return the name of their result.

    Height and width are one axis in between: ONNX Runtime would otherwise move the Pad to the channels-last layout, where it takes 40
    times as long.
    """
    batch, height, width, channels = _sizes(entry)
    flat = edits.store(f"{entry.name}_flat_shape", np.array([batch, channels, height * width]))
    widths = edits.store(f"{entry.name}_pad_widths", np.array([0, 0, 0, 0, MULTIPLE - channels, 0]))
    inside = edits.store("inside", np.array(BRIGHTEST, np.uint8))
    whole = edits.store(f"{entry.name}_shape", np.array([batch, MULTIPLE, height, width]))
    names = [edits.names.new(f"{entry.name}_{part}") for part in ("channels_first", "flat", "inside", "pixels")]
    edits.insert_before(
        layer.activation,
        helper.make_node("Transpose", [entry.name], [names[0]], names[0], perm=CHANNELS_FIRST),
        helper.make_node("Reshape", [names[0], flat], [names[1]], names[1]),
        helper.make_node("Pad", [names[1], widths, inside], [names[2]], names[2]),
        helper.make_node("Reshape", [names[2], whole], [names[3]], names[3]),
    )
    return names[3]
