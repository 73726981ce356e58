"""Int8 convolutions that read the pixels of a picture: the normalization becomes a part of their weights.

A file that takes raw pictures converts them to float, normalizes them and rounds them to int8 for its first convolution. The pixels are 8-bit
integers already, and ONNX Runtime can multiply them directly (benchmarks/quantize/pixels.json). Its fast kernels need a multiple of
4 channels. So pixels that are neighbours in a row are read as one, which copies nothing: four pixels of 3 channels are one of 12. The
convolution computes the results of these pixels together, as further output channels; the weights that it has too many are 0.

The convolution pads a normalized picture with zeros. The file pads the picture instead, with the pixel that comes nearest to a
normalized zero, which is within half a step of a pixel.
"""

from __future__ import annotations

import math
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
MOST_ZEROS: Final = 2048
"""The most products with weights of 0 for each pixel. More of them cost more than the float normalization on processors without VNNI, and
save little on others (benchmarks/quantize: pixel_instructions.json, pixels.json)."""
BRIGHTEST: Final = 255
CHANNELS_FIRST: Final = [0, 3, 1, 2]
CHANNELS_LAST: Final = [0, 2, 3, 1]


class Window(NamedTuple):
    """How a convolution moves along an axis: the size of the axis and of the kernel, the stride, and the padding before and after."""

    size: int
    kernel: int
    stride: int
    before: int
    after: int

    @property
    def results(self) -> int:
        """The size of the axis behind the convolution."""
        return (self.size + self.before + self.after - self.kernel) // self.stride + 1


class Groups(NamedTuple):
    """Groups of neighbouring pixels of a row that are read as one: how many pixels and results each has, and the kernel in groups.

    `before` and `after` are the pixels that the row is padded with.
    """

    pixels: int
    results: int
    kernel: int
    before: int
    after: int

    @classmethod
    def of(cls, columns: Window, channels: int) -> Groups | None:
        """Return the smallest groups whose channels are a multiple of 4, or None if the convolution leaves out the last pixels."""
        pixels = math.lcm(MULTIPLE // math.gcd(MULTIPLE, channels), columns.stride)
        results = pixels // columns.stride
        leading = math.ceil(columns.before / pixels)
        last = (results - 1) * columns.stride - columns.before + columns.kernel - 1
        kernel = leading + last // pixels + 1
        groups = math.ceil(columns.results / results) + kernel - 1
        after = (groups - leading) * pixels - columns.size
        return cls(pixels, results, kernel, leading * pixels, after) if after >= 0 else None

    def weight(self, weight: NDArray[np.float64], columns: Window) -> NDArray[np.float64]:
        """Return a weight (O, C, KH, KW) for groups of pixels: (results * O, pixels * C, KH, kernel)."""
        outputs, channels, rows, kernel = weight.shape
        spread = np.zeros((self.results, outputs, rows, self.kernel * self.pixels, channels))
        for result in range(self.results):
            first = self.before - columns.before + result * columns.stride
            spread[result, :, :, first : first + kernel] = weight.transpose(0, 2, 3, 1)
        by_group = spread.reshape(self.results * outputs, rows, self.kernel, self.pixels * channels)
        return by_group.transpose(0, 3, 1, 2)


class Layer(NamedTuple):
    """A convolution with int8 weights, the nodes around it, and its geometry.

    `activation` and `stored` dequantize its input and its weights, `quantizer` rounds its results; `weight` is (O, C, H, W) in float.
    """

    node: onnx.NodeProto
    activation: onnx.NodeProto
    stored: onnx.NodeProto
    quantizer: onnx.NodeProto
    weight: NDArray[np.float64]
    strides: list[int]
    pads: list[int]


class Normalization(NamedTuple):
    """The nodes between a uint8 input and its convolution, the last first, and what they compute: gain * pixel + offset, both (C,)."""

    entry: onnx.ValueInfoProto
    nodes: list[onnx.NodeProto]
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]

    @property
    def zero(self) -> NDArray[np.float64]:
        """The pixel (C,) that comes nearest to a normalized zero."""
        return np.rint(np.clip(-self.offset / self.gain, 0, BRIGHTEST))


class Geometry(NamedTuple):
    """How a convolution moves over a picture."""

    rows: Window
    columns: Window
    groups: Groups


def read_pixels(graph: onnx.GraphProto) -> bool:
    """Let int8 convolutions of a canonical graph read the pixels of its uint8 inputs where a normalization stands between the two.

    Returns whether there is such a convolution. The weights are rounded to int8 once more; the pixels are no longer rounded, nor limited
    to the range of the calibration.
    """
    pictures = {
        value.name: value for value in graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    found = False
    with Edits(graph) as edits:
        for node in [node for node in graph.node if node.op_type == "Conv" and pictures]:
            layer = _layer(edits.index, node)
            normalization = None if layer is None else _normalization(edits.index, layer, pictures)
            if layer is None or normalization is None:
                continue
            geometry = _geometry(layer, normalization)
            if geometry is not None:
                _merge(edits, layer, normalization, geometry)
                found = True
    return found


def _layer(index: Index, node: onnx.NodeProto) -> Layer | None:
    """Return a convolution whose weights, input and results are quantized and read by it alone, or None."""
    activation, stored = (index.dequantizer(name) for name in node.input[:2])
    quantizer = _quantizer(index, node)
    if activation is None or stored is None or quantizer is None:
        return None
    weight, step = index.value(stored.input[0]), index.value(stored.input[1])
    alone = all(index.readers[name] == 1 for name in (*node.input[:2], stored.input[0]))
    if weight is None or step is None or not alone or weight.ndim != 4:
        return None
    given = {entry.name: list(entry.ints) for entry in node.attribute}
    grouped = any(entry.name == "group" and entry.i != 1 for entry in node.attribute)
    automatic = any(entry.name == "auto_pad" and entry.s not in {b"", b"NOTSET"} for entry in node.attribute)
    dilated = any(dilation != 1 for dilation in given.get("dilations", ()))
    computed_bias = any(name not in index.stored for name in node.input[2:])
    if step.shape != weight.shape[:1] or axis_of(stored) != 0 or grouped or automatic or dilated or computed_bias:
        return None
    values = weight * per_channel(step.astype(np.float64), weight)
    return Layer(
        node, activation, stored, quantizer, values, given.get("strides") or [1, 1], given.get("pads") or [0] * 4
    )


def _quantizer(index: Index, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return what rounds the results of a layer, directly or behind a ReLU or a clip, if nothing else reads them."""
    reader: onnx.NodeProto | None = node
    while reader is not None and reader.op_type != "QuantizeLinear":
        readers = index.users.get(reader.output[0], [])
        alone = index.readers[reader.output[0]] == 1
        reader = readers[0] if alone and readers and readers[0].op_type in {"Relu", "Clip", "QuantizeLinear"} else None
    return reader


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
    is_picture = len(sizes) == 4 and all(sizes) and sizes[-1] == layer.weight.shape[1] and order == CHANNELS_FIRST
    if not is_picture or any(value is None for value in values):
        return None
    factor, shift, mean, variance = (np.asarray(value, np.float64) for value in values)
    epsilon = next((entry.f for entry in normalize.attribute if entry.name == "epsilon"), 1e-5)
    gain = factor / np.sqrt(variance + epsilon)
    return Normalization(pictures[name], nodes, gain, shift - mean * gain) if gain.all() else None


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    """Return the shape of an input; an axis of any length is 0."""
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _geometry(layer: Layer, normalization: Normalization) -> Geometry | None:
    """Return how a layer moves over a picture, or None where groups of pixels do not pay, or where no pixel can be the padding."""
    _, height, width, channels = _sizes(normalization.entry)
    rows, columns = (
        Window(size, layer.weight.shape[2 + axis], layer.strides[axis], layer.pads[axis], layer.pads[2 + axis])
        for axis, size in enumerate((height, width))
    )
    groups = Groups.of(columns, channels)
    if groups is None or _zeros(layer, rows, columns, groups) > MOST_ZEROS:
        return None
    away = np.abs(normalization.gain * normalization.zero + normalization.offset)
    is_zero = (away <= np.abs(normalization.gain) / 2 * (1 + 1e-6)).all()
    return Geometry(rows, columns, groups) if is_zero or not any(layer.pads) else None


def _zeros(layer: Layer, rows: Window, columns: Window, groups: Groups) -> float:
    """Return how many products with weights of 0 there are for each pixel of a picture."""
    outputs, channels, *_ = layer.weight.shape
    more = groups.kernel * groups.pixels - columns.kernel
    return outputs * channels * rows.kernel * more / (rows.stride * columns.stride)


def _merge(edits: Edits, layer: Layer, normalization: Normalization, geometry: Geometry) -> None:
    groups = geometry.groups
    gain, offset = (values.reshape(1, -1, 1, 1) for values in (normalization.gain, normalization.offset))
    wanted = groups.weight(layer.weight * gain, geometry.columns).astype(np.float32)
    weight, step = quantized_weight(wanted, narrow=pairs_fit(edits.index, layer.node))
    # Pixels are never about zero, so the errors of the weights move every answer by the same amount: the bias takes it back.
    usual = np.tile(normalization.zero, groups.pixels)
    moved = ((weight * per_channel(step, weight) - wanted).sum((2, 3), dtype=np.float64) * usual).sum(1)
    given = sum((numpy_helper.to_array(edits.index.stored[name]) for name in layer.node.input[2:]), np.float64(0))
    bias = np.tile(given + (layer.weight * offset).sum((1, 2, 3)), groups.results) - moved
    name = layer.stored.input[0]
    layer.stored.input[0] = edits.store(f"{name}_of_pixels", weight)
    layer.stored.input[1] = edits.store(f"{name}_of_pixels_scale", step)
    layer.stored.input[2] = edits.store(f"{name}_of_pixels_zero_point", np.zeros(len(weight), np.int8))
    layer.node.input[2:] = [edits.store(f"{layer.node.output[0]}_bias", bias.astype(np.float32))]
    _set_geometry(layer.node, weight.shape[2:], [geometry.rows.stride, 1])
    grid = [edits.store("pixel_scale", np.array(1, np.float32)), edits.store("pixel_zero_point", np.array(0, np.uint8))]
    layer.activation.input[:] = [_grouped(edits, layer, normalization, geometry), *grid]
    _separate_results(edits, layer, normalization, geometry)
    for node in normalization.nodes:
        edits.remove(node)


def _set_geometry(node: onnx.NodeProto, kernel: tuple[int, ...], strides: list[int]) -> None:
    """Write the kernel and the strides of a convolution without padding."""
    written = {"kernel_shape": kernel, "strides": strides, "pads": [0] * 4}
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in written.items())


def _grouped(edits: Edits, layer: Layer, normalization: Normalization, geometry: Geometry) -> str:
    """Add the nodes that pad a picture and read its rows in groups of pixels, channels first; return the name of their result."""
    entry, groups, rows = normalization.entry, geometry.groups, geometry.rows
    name, shape, nodes = entry.name, _sizes(entry), list[onnx.NodeProto]()
    below = max(0, (rows.results - 1) * rows.stride + rows.kernel - rows.before - rows.size)
    for axis, amounts in ((1, (rows.before, below)), (2, (groups.before, groups.after))):
        sides = [np.broadcast_to(normalization.zero.astype(np.uint8), _with(shape, axis, amount)) for amount in amounts]
        before, after = ([edits.store(f"{entry.name}_padding", side)] if side.size else [] for side in sides)
        if before or after:
            padded = edits.names.new(f"{entry.name}_padded")
            nodes.append(helper.make_node("Concat", [*before, name, *after], [padded], padded, axis=axis))
            name = padded
        shape = _with(shape, axis, shape[axis] + sum(amounts))
    sizes = edits.store(
        f"{entry.name}_groups_shape", np.array([*shape[:2], shape[2] // groups.pixels, groups.pixels * shape[3]])
    )
    names = [edits.names.new(f"{entry.name}_{part}") for part in ("groups", "pixels")]
    edits.insert_before(
        layer.activation,
        *nodes,
        helper.make_node("Reshape", [name, sizes], [names[0]], names[0]),
        helper.make_node("Transpose", [names[0]], [names[1]], names[1], perm=CHANNELS_FIRST),
    )
    return names[1]


def _with(shape: list[int], axis: int, size: int) -> list[int]:
    """Return a shape with another size of an axis."""
    return [size if number == axis else one for number, one in enumerate(shape)]


def _separate_results(edits: Edits, layer: Layer, normalization: Normalization, geometry: Geometry) -> None:
    """Add the nodes behind the rounding that turn the results of a group, which are channels, into neighbours in a row."""
    wanted, columns = layer.quantizer.output[0], geometry.columns
    names = [edits.names.new(f"{wanted}_{part}") for part in ("of_groups", "channels_last", "separate", "in_rows")]
    groups = math.ceil(columns.results / geometry.groups.results)
    sizes = [_sizes(normalization.entry)[0], geometry.rows.results, groups * geometry.groups.results, len(layer.weight)]
    layer.quantizer.output[0] = names[0]
    nodes = [
        helper.make_node("Transpose", [names[0]], [names[1]], names[1], perm=CHANNELS_LAST),
        helper.make_node("Reshape", [names[1], edits.store(f"{wanted}_shape", np.array(sizes))], [names[2]], names[2]),
    ]
    if sizes[2] > columns.results:
        ends = [
            edits.store(f"{wanted}_{part}", np.array([n]))
            for part, n in (("start", 0), ("end", columns.results), ("axis", 2))
        ]
        nodes.append(helper.make_node("Slice", [nodes[-1].output[0], *ends], [names[3]], names[3]))
    edits.insert_after(
        layer.quantizer,
        *nodes,
        helper.make_node("Transpose", [nodes[-1].output[0]], [wanted], f"{names[2]}_first", perm=CHANNELS_FIRST),
    )
