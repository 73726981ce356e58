"""Whether sums of two 8-bit products of an int8 model fit into 16 bits, in which x86 without VNNI computes them."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedistill.graphs.index import Index

MARK: Final = {"edgedistill.weights": "narrow"}
"""The metadata of a model whose sums fit: ONNX Runtime's kit then needs no exact kernels, which take 1.4 times as long."""
LARGEST: Final = 128
"""The largest sum of two weights of one sign: 255 * 128 fits into 16 bits."""


def sums_fit(graph: onnx.GraphProto) -> bool:
    """Return whether no two int8 weights that a kernel adds as a pair have too large a sum."""
    index = Index.of(graph)
    return all(pairs_fit(index, node) for node in graph.node if node.op_type in {"Conv", "Gemm", "MatMul"})


def pairs_fit(index: Index, layer: onnx.NodeProto) -> bool:
    """Return whether no two int8 weights of a layer that a kernel adds as a pair have too large a sum."""
    dequantizer = index.dequantizer(layer.input[1])
    weight = None if dequantizer is None else index.value(dequantizer.input[0])
    if weight is None:
        return True
    attributes = {entry.name: entry.i for entry in layer.attribute}
    if layer.op_type == "Conv" and attributes.get("group", 1) != 1 and weight.shape[1] == 1:
        return True  # each channel alone: kernels add no pairs
    if layer.op_type == "MatMul" or (layer.op_type == "Gemm" and not attributes.get("transB", 0)):
        weight = np.moveaxis(weight, -2, -1)
    rows = np.moveaxis(weight.astype(np.int32), 1 if layer.op_type == "Conv" else -1, -1)
    orders = [rows.reshape(len(rows), -1), rows]  # across the positions of the kernel, and within each
    return max(_largest_pair(sign * order) for order in orders for sign in (1, -1)) <= LARGEST


def _largest_pair(rows: NDArray[np.int32]) -> int:
    """Return the largest sum of two positive neighbours (0, 1), (2, 3), ... on the last axis."""
    padded = np.concatenate([rows, np.zeros_like(rows[..., :1])], -1)[..., : rows.shape[-1] + rows.shape[-1] % 2]
    positive = np.maximum(padded, 0)
    return int((positive[..., ::2] + positive[..., 1::2]).max(initial=0))
