"""Unsigned activations for OpenVINO on x86: what a ReLU or a clip leaves is never negative, and uint8 holds its integers."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import numpy as np
import onnx

from edgedistill.graphs.index import Edits, Index
from edgedistill.graphs.operators import keeps_grid

MOST_STEPS: Final = 127
"""The largest int8; unsigned activations keep the integers of the signed ones."""


def write_unsigned_where_nonnegative(graph: onnx.GraphProto) -> None:
    """Encode non-negative activations as uint8 with zero point 0: the same integers 0 to 127, clipped at 127."""
    edits, unsigned = Edits(graph), set[str]()
    zero = edits.store("zero_point_0_unsigned", np.array(0, np.uint8))
    for quantizer in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        if not (_limit_to_127(edits, quantizer) or _carries(edits.index, quantizer, unsigned)):
            continue
        users = edits.index.users.get(quantizer.output[0], ())
        readers = [
            node for node in users if node.op_type == "DequantizeLinear" and node.input[0] == quantizer.output[0]
        ]
        for node in (quantizer, *readers):
            node.input[2] = zero
        unsigned |= {node.output[0] for node in readers}


def _limit_to_127(edits: Edits, quantizer: onnx.NodeProto) -> bool:
    """Limit a ReLU, or a clip from 0 or above, before a QuantizeLinear to 127 steps; return whether there was one."""
    index = edits.index
    activation, scale = index.producer.get(quantizer.input[0]), index.value(quantizer.input[1])
    if activation is None or scale is None or scale.size > 1 or index.readers[quantizer.input[0]] != 1:
        return False
    bounds = constant_bounds(index, activation)
    if bounds is None or bounds[0] < 0:
        return False
    most = np.float32(MOST_STEPS) * scale.astype(np.float32).reshape(())
    del activation.input[1:]
    for bound in (np.float32(bounds[0]), min(np.float32(bounds[1]), most)):
        activation.input.append(edits.store(f"{quantizer.input[0]}_bound", np.array(bound, np.float32)))
    activation.op_type = "Clip"
    return True


def _carries(index: Index, quantizer: onnx.NodeProto, unsigned: Collection[str]) -> bool:
    """Return whether a QuantizeLinear rounds values that an operator moved from an unsigned tensor of the same scale."""
    carrier = index.producer.get(quantizer.input[0])
    if carrier is None or not keeps_grid(carrier) or carrier.input[0] not in unsigned:
        return False
    steps = index.step(carrier.input[0]), index.value(quantizer.input[1])
    return all(step is not None and step.size == 1 for step in steps) and bool(steps[0] == steps[1])


def constant_bounds(index: Index, activation: onnx.NodeProto) -> tuple[float, float] | None:
    """Return the bounds of a ReLU, or of a clip between stored values; None for another node."""
    if activation.op_type == "Relu":
        return 0.0, math.inf
    if activation.op_type != "Clip":
        return None
    bounds = [-math.inf, math.inf]
    for place, name in enumerate(activation.input[1:]):
        if name:
            bound = index.value(name)
            if bound is None:
                return None
            bounds[place] = float(bound)
    return bounds[0], bounds[1]
