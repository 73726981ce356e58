"""Channels of zeros for int8 convolutions that read few channels, as the first layer of a network does."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from edgedistill.graphs.index import Edits, Index

MULTIPLE: Final = 4
MOST_CHANNELS: Final = 8
FEWEST_OUTPUTS: Final = 16
MOST_TAPS: Final = 25
"""ONNX Runtime's kernel that reads the input in place takes a multiple of 4 channels, and 16 outputs or more. Other inputs are copied first,
tap by tap, which takes up to a third of the layer's time. With more taps or channels the zeros cost more than the copy does
(benchmarks/quantize/input_channels.json)."""


def pad_input_channels(graph: onnx.GraphProto) -> None:
    """Add channels of zeros, with weights of zero, where they make a convolution of an int8 graph faster; no result changes."""
    with Edits(graph) as edits:
        for layer in [node for node in graph.node if node.op_type == "Conv"]:
            weight = _padded_weight(edits.index, layer)
            if weight is None:
                continue
            dequantizers = [edits.index.producer[name] for name in layer.input[:2]]
            integers, zero = dequantizers[0].input[0], dequantizers[0].input[2]
            stored, missing = dequantizers[1].input[0], -edits.index.stored[dequantizers[1].input[0]].dims[1] % MULTIPLE
            edits.index.stored[stored].CopyFrom(numpy_helper.from_array(weight, stored))
            widths = np.zeros((2, weight.ndim), np.int64)
            widths[1, 1] = missing
            amounts = edits.store(f"{integers}_channels", widths.ravel())
            padded = edits.names.new(f"{integers}_padded")
            pad = onnx.helper.make_node("Pad", [integers, amounts, zero], [padded], name=padded)
            dequantizers[0].input[0] = padded
            edits.insert_before(dequantizers[0], pad)


def _padded_weight(index: Index, layer: onnx.NodeProto) -> np.ndarray | None:
    """Return the int8 weight of a layer with channels of zeros, or None where they do not pay or another layer reads the same tensor."""
    activation, stored = (index.dequantizer(name) for name in layer.input[:2])
    if activation is None or stored is None or len(activation.input) < 3:
        return None
    weight = index.value(stored.input[0])
    read_once = all(index.readers[name] == 1 for name in (*layer.input[:2], stored.input[0]))
    grouped = any(entry.name == "group" and entry.i != 1 for entry in layer.attribute)
    if weight is None or grouped or not read_once or activation.input[0] in index.stored:
        return None
    outputs, channels, *taps = weight.shape
    if channels % MULTIPLE == 0 or channels > MOST_CHANNELS or outputs < FEWEST_OUTPUTS or np.prod(taps) > MOST_TAPS:
        return None
    return np.pad(weight, [(0, 0), (0, -channels % MULTIPLE), *[(0, 0)] * len(taps)])
