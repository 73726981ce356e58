"""Look-ups in an ONNX graph that the rewrites share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


@dataclass(frozen=True)
class Index:
    """An ONNX graph by name: stored tensors, producers, and how often each tensor is read (as an output too)."""

    stored: dict[str, onnx.TensorProto]
    producer: dict[str, onnx.NodeProto]
    readers: Counter[str]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Index:
        """Index a graph as it is now."""
        readers = Counter(name for node in graph.node for name in node.input if name)
        readers.update(output.name for output in graph.output)
        return cls(
            stored={tensor.name: tensor for tensor in graph.initializer},
            producer={name: node for node in graph.node for name in node.output},
            readers=readers,
        )

    def value(self, name: str) -> NDArray[np.generic] | None:
        """Return a stored tensor's value, or None where the name is computed."""
        return numpy_helper.to_array(self.stored[name]) if name in self.stored else None

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        """Return the DequantizeLinear that makes a tensor, if one does."""
        node = self.producer.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes that hold a tensor into stored tensors."""
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove stored tensors that nothing reads."""
    readers = Index.of(graph).readers
    for tensor in [tensor for tensor in graph.initializer if not readers[tensor.name]]:
        graph.initializer.remove(tensor)


def free_name(graph: onnx.GraphProto, name: str) -> str:
    """Return a name that no tensor of the graph has, as near as possible to the one asked for."""
    taken = {tensor.name for tensor in graph.initializer} | {output for node in graph.node for output in node.output}
    taken |= {value.name for value in graph.input}
    return _unique(name, taken)


def axis_of(node: onnx.NodeProto) -> int:
    """Return the axis of a QuantizeLinear or DequantizeLinear (1 when it is not written)."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def set_axis(node: onnx.NodeProto, axis: int | None) -> None:
    """Write the axis of a QuantizeLinear or DequantizeLinear, or none for a scalar scale."""
    for attribute in [attribute for attribute in node.attribute if attribute.name == "axis"]:
        node.attribute.remove(attribute)
    if axis is not None:
        node.attribute.append(onnx.helper.make_attribute("axis", axis))


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give each node a name of its own; one without, or with another's, is called as its first output."""
    taken: set[str] = set()
    for node in graph.node:
        if not node.name or node.name in taken:
            node.name = _unique(node.output[0], taken | {other.name for other in graph.node})
        taken.add(node.name)


def _unique(name: str, taken: set[str]) -> str:
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    return unique
