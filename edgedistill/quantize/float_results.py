"""Results of last layers that stay in float: one int8 scale for all channels would lose the channels in a small unit.

Nothing after a last layer is quantized, so its result has to be rounded only for speed. A detector's head is an example:
offsets in hundreds of pixels and scores of a few units are channels of one convolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedistill.quantize.placement import FLOAT_RESULT, LAYERS, Graph, OperationKind, Placement

UNLIKE: Final = 30.0
"""Channels share no scale if the largest magnitude is more than this many times the range of a channel.

At 30, the rounding error of normally distributed values is about a third of the variance of the smallest channel.
"""
STILL: Final = 1e-4
"""A channel whose range is below this fraction of its largest magnitude is constant, and needs no scale."""


class ChannelRanges:
    """The least and the largest value of each channel of a tensor; `axis` is the axis of the channels."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.low: NDArray[np.float64] | None = None
        self.high: NDArray[np.float64] | None = None

    def update(self, value: NDArray[np.generic]) -> None:
        """Include a value of the tensor."""
        exact = value.astype(np.float64)
        rest = tuple(axis for axis in range(exact.ndim) if axis != self.axis % exact.ndim)
        low, high = exact.min(rest), exact.max(rest)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    def ratio(self) -> float:
        """Return the largest magnitude over the smallest range of a channel; 1 if no channel varies."""
        assert self.low is not None
        assert self.high is not None
        most, width = np.maximum(np.abs(self.low), np.abs(self.high)), self.high - self.low
        varying = width > STILL * most
        return float(most.max() / width[varying].min()) if varying.any() else 1.0


def last_results(model: onnx.ModelProto, graph: Graph, placement: Placement) -> dict[str, ChannelRanges]:
    """Return the results of layers to round that lead only to outputs of the model, with ranges to fill."""
    inside = leading_to_quantized(model, graph, placement)
    found = dict[str, ChannelRanges]()
    for name in placement.results:
        layer = _layer_of(graph, name)
        if layer is not None and name not in inside:
            found[name] = ChannelRanges(1 if graph.operations[layer].kind is OperationKind.CONVOLUTION else -1)
    return found


def leave_in_float(graph: Graph, placement: Placement, ranges: dict[str, ChannelRanges]) -> None:
    """Remove the rounding of the results whose channels share no scale from a placement, and report the reason."""
    for name, one in ranges.items():
        ratio, layer = one.ratio(), _layer_of(graph, name)
        path = None if layer is None else graph.operations[layer].layer
        if ratio <= UNLIKE or path is None or path not in placement.report:
            continue
        del placement.results[name], placement.origins[name]
        placement.report[path] = (
            f"{FLOAT_RESULT}one scale would lose its smallest channels: the largest value is {ratio:,.0f} times their range"
        )


def leading_to_quantized(model: onnx.ModelProto, graph: Graph, placement: Placement) -> set[str]:
    """Return the tensors that are quantized as inputs, or lead to a tensor that is quantized."""
    found = {graph.operations[reader].inputs[index] for reader, index in placement.edges}
    rounded: Iterable[str] = placement.results
    targets = found | set(rounded)
    for node in reversed(model.graph.node):
        if targets.intersection(node.output):
            found.update(node.input)
            targets.update(node.input)
    return found


def _layer_of(graph: Graph, name: str) -> str | None:
    """Return the layer that makes a result, directly or before a clip; None for an addition."""
    one = graph.operations[name]
    if one.kind is OperationKind.CLIP:
        one = graph.operations[one.inputs[0]]
    return one.name if one.kind in LAYERS else None
