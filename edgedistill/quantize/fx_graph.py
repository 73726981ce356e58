"""Describe a captured torch model for the placement; tensors have the names of the graph's nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import fx

from edgedistill.quantize.capture import ATEN, CONVOLUTION, LINEAR, TRANSPOSED
from edgedistill.quantize.placement import COMPUTED, STORED, Graph, Operation, OperationKind

CLIP = {ATEN.relu.default, ATEN.relu6.default, ATEN.hardtanh.default, ATEN.clamp.default, ATEN.clamp_min.default}
PAD = {ATEN.pad.default, ATEN.constant_pad_nd.default}
RESHAPE = {
    ATEN.reshape.default,
    ATEN.view.default,
    ATEN.flatten.using_ints,
    ATEN.permute.default,
    ATEN.transpose.int,
    ATEN.unsqueeze.default,
    ATEN.squeeze.default,
    ATEN.squeeze.dim,
    ATEN.squeeze.dims,
    ATEN.clone.default,
    ATEN.contiguous.default,
}
NEAREST = {
    overload
    for kind in ("upsample_nearest", "_upsample_nearest_exact")
    for operator in (getattr(ATEN, f"{kind}1d"), getattr(ATEN, f"{kind}2d"))
    for overload in (operator.default, operator.vec)
}
MOVE = NEAREST | {ATEN.slice.Tensor, ATEN.select.int, ATEN.max_pool1d.default, ATEN.max_pool2d.default}
KINDS: dict[Any, OperationKind] = {
    **dict.fromkeys(CONVOLUTION, OperationKind.CONVOLUTION),
    **dict.fromkeys(LINEAR, OperationKind.DENSE),
    **dict.fromkeys(CLIP, OperationKind.CLIP),
    **dict.fromkeys(RESHAPE, OperationKind.RESHAPE),
    **dict.fromkeys(MOVE, OperationKind.MOVE),
    **dict.fromkeys((ATEN.sigmoid.default, ATEN.hardsigmoid.default), OperationKind.GATE),
    **dict.fromkeys((ATEN.tanh.default, ATEN.elu.default, ATEN.leaky_relu.default), OperationKind.ACTIVATION),
    **dict.fromkeys((ATEN.hardswish.default, ATEN.silu.default, ATEN.gelu.default), OperationKind.SMOOTH),
    **dict.fromkeys(
        (ATEN.mean.dim, ATEN.adaptive_avg_pool1d.default, ATEN.adaptive_avg_pool2d.default), OperationKind.POOL
    ),
    ATEN.add.Tensor: OperationKind.ADD,
    ATEN.mul.Tensor: OperationKind.MULTIPLY,
    ATEN.cat.default: OperationKind.CONCAT,
    ATEN.softmax.int: OperationKind.SOFTMAX,
}
FLOORS: dict[Any, float] = {ATEN.hardswish.default: -3.0, ATEN.hardsigmoid.default: -3.0, ATEN.silu.default: -8.0}
FLOAT_ONLY = {
    **dict.fromkeys(TRANSPOSED, "TensorRT runs a quantized transposed convolution in float"),
    ATEN.conv3d.default: "no placement for 3-D convolution",
    ATEN.conv3d.padding: "no placement for 3-D convolution",
    ATEN.embedding.default: "an embedding is a look-up",
    ATEN.lstm.input: "no placement for recurrent layers",
    ATEN.gru.input: "no placement for recurrent layers",
}


def graph_of(graph: fx.Graph) -> Graph:
    """Describe a captured graph.

    A convolution after zero padding of its spatial axes is described as reading the tensor before the padding, because
    the exporter merges the padding into the convolution.
    """
    (output,) = (node for node in graph.nodes if node.op == "output")
    computed = (node for node in graph.nodes if node.op not in {"output", "get_attr"} and not _is_size(node))
    return Graph((_operation(node) for node in computed), (node.name for node in output.all_input_nodes))


def _operation(node: fx.Node) -> Operation:
    stored = [tensor for tensor in node.all_input_nodes if tensor.op == "get_attr"]
    inputs = [tensor for tensor in _nodes(node.args) if tensor.op != "get_attr" and not _is_size(tensor)]
    if node.target in CONVOLUTION and inputs and _pads_layer(inputs[0]):
        inputs[0] = cast("fx.Node", inputs[0].args[0])
    value, layer, reason = node.meta.get("val"), None, None
    if node.target in CONVOLUTION | LINEAR or node.target in FLOAT_ONLY:
        path = str(stored[0].target) if stored else node.name
        layer, reason = path.rpartition(".")[0] or path, _float_reason(node)
    return Operation(
        name=node.name, kind=_kind(node, has_stored=bool(stored)), inputs=tuple(tensor.name for tensor in inputs),
        shape=tuple(value.shape) if isinstance(value, torch.Tensor) else None, layer=layer, reason=reason,
        lowest=_lowest(node), floor=FLOORS.get(node.target),
    )  # fmt: skip


def _is_size(node: fx.Node) -> bool:
    """Return whether a node computes the size of an axis, not a tensor."""
    return isinstance(node.meta.get("val"), torch.SymInt)


def _nodes(arguments: Iterable[Any]) -> list[fx.Node]:
    """Return the nodes among arguments and in nested lists, in order and with repetitions."""
    found = list[fx.Node]()
    for argument in arguments:
        if isinstance(argument, fx.Node):
            found.append(argument)
        elif isinstance(argument, (list, tuple)):
            found += _nodes(argument)
    return found


def _kind(node: fx.Node, *, has_stored: bool) -> OperationKind:
    if _pads_with_zeros(node):
        return OperationKind.MOVE
    kind = KINDS.get(node.target, OperationKind.OTHER)
    scaled = kind is OperationKind.ADD and node.kwargs.get("alpha", 1) != 1
    return OperationKind.OTHER if scaled or (kind is OperationKind.CONCAT and has_stored) else kind


def _float_reason(node: fx.Node) -> str | None:
    if node.target in FLOAT_ONLY:
        return FLOAT_ONLY[node.target]
    data, weight = (cast("fx.Node", argument).op for argument in node.args[:2])
    return COMPUTED if weight != "get_attr" else STORED if data == "get_attr" else None


def _lowest(node: fx.Node) -> float | None:
    if node.target in {ATEN.relu.default, ATEN.relu6.default}:
        return 0.0
    if node.target not in CLIP:
        return None
    lowest = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val"))
    return float(lowest) if isinstance(lowest, (int, float)) else None


def _pads_layer(node: fx.Node) -> bool:
    """Return whether a node pads spatial axes only, with zeros."""
    if not _pads_with_zeros(node):
        return False
    spatial: int = node.meta["val"].dim() - 2
    return len(cast("list[int]", node.args[1])) <= 2 * spatial


def _pads_with_zeros(node: fx.Node) -> bool:
    if node.target not in PAD:
        return False
    pads, *rest = node.args[1:]
    constant = node.target is ATEN.constant_pad_nd.default or not rest or rest[0] == "constant"
    value = node.args[-1] if isinstance(node.args[-1], (int, float)) else 0
    return constant and not value and all(isinstance(pad, int) and pad >= 0 for pad in cast("list[int]", pads))
