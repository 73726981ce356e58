"""Look-ups in an ONNX graph and changes to it, each linear in the size of the graph."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


@dataclass(frozen=True)
class Index:
    """An ONNX graph by name: stored tensors, producers, and how often each tensor is read (as an output too).

    `users` has the nodes that read a tensor, in the order of the graph.
    """

    stored: dict[str, onnx.TensorProto]
    producer: dict[str, onnx.NodeProto]
    readers: Counter[str]
    users: dict[str, list[onnx.NodeProto]]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Index:
        """Index a graph as it is now."""
        users, readers = dict[str, list[onnx.NodeProto]](), Counter[str]()
        for node in graph.node:
            names = [name for name in node.input if name]
            readers.update(names)
            for name in dict.fromkeys(names):
                users.setdefault(name, []).append(node)
        readers.update(output.name for output in graph.output)
        return cls(
            stored={tensor.name: tensor for tensor in graph.initializer},
            producer={name: node for node in graph.node for name in node.output},
            readers=readers,
            users=users,
        )

    def value(self, name: str) -> NDArray[np.generic] | None:
        """Return a stored tensor's value, or None where the name is computed."""
        return numpy_helper.to_array(self.stored[name]) if name in self.stored else None

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        """Return the DequantizeLinear that makes a tensor, if one does."""
        node = self.producer.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def step(self, name: str) -> NDArray[np.generic] | None:
        """Return the scale of a dequantized tensor, or None for another tensor."""
        dequantizer = self.dequantizer(name)
        return None if dequantizer is None else self.value(dequantizer.input[1])


class Names:
    """The names in use; a new name is the requested one, with a number if that is in use."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Names:
        """Return the names of a graph's tensors."""
        names = cls(tensor.name for tensor in graph.initializer)
        names._taken.update(output for node in graph.node for output in node.output)
        names._taken.update(value.name for value in graph.input)
        return names

    def new(self, name: str) -> str:
        """Return and reserve the first unused name of NAME, NAME_1, NAME_2, ..."""
        unique, count = name, self._next.get(name, 1)
        while unique in self._taken:
            unique, count = f"{name}_{count}", count + 1
        self._next[name] = count
        self._taken.add(unique)
        return unique


class Edits:
    """Changes to a graph: nodes are inserted and removed when the block that holds the edits ends.

    `index` shows the graph as it was at first. A node that is moved is removed and inserted again.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.index = graph, Index.of(graph)
        self._nodes = list(graph.node)
        self._removed: set[int] = set()
        self._before: dict[int, list[onnx.NodeProto]] = defaultdict(list)
        self._after: dict[int, list[onnx.NodeProto]] = defaultdict(list)
        self._first: list[onnx.NodeProto] = []

    @cached_property
    def names(self) -> Names:
        """The names of the graph's tensors."""
        return Names.of(self.graph)

    def store(self, name: str, value: NDArray[np.generic]) -> str:
        """Store a tensor under this name, with a number if the name is in use, and return the name."""
        unique = self.names.new(name)
        self.graph.initializer.append(numpy_helper.from_array(value, unique))
        return unique

    def insert_before(self, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Insert nodes directly before a node, behind those inserted there earlier."""
        self._before[id(node)] += new

    def insert_after(self, node: onnx.NodeProto | None, *new: onnx.NodeProto) -> None:
        """Insert nodes directly after a node, or at the beginning, before those inserted there earlier."""
        if node is None:
            self._first[:0] = new
        else:
            self._after[id(node)][:0] = new

    def remove(self, node: onnx.NodeProto) -> None:
        """Remove a node from the graph."""
        self._removed.add(id(node))

    def __enter__(self) -> Edits:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and (self._removed or self._before or self._after or self._first):
            nodes = list(self._first)
            for node in self._nodes:
                nodes += self._before.get(id(node), [])
                nodes += [] if id(node) in self._removed else [node]
                nodes += self._after.get(id(node), [])
            _replace(self.graph.node, nodes)


def _replace(field: Any, entries: list[Any]) -> None:
    """Replace the entries of a repeated field; entries that stay are copied once."""
    del field[:]
    field.extend(entries)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes with a tensor into stored tensors."""
    constants, others = list[onnx.NodeProto](), list[onnx.NodeProto]()
    for node in graph.node:
        holds = node.op_type == "Constant" and node.attribute[0].name == "value"
        (constants if holds else others).append(node)
    for node in constants:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
    if constants:
        _replace(graph.node, others)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove stored tensors that nothing reads."""
    readers = Index.of(graph).readers
    kept = [tensor for tensor in graph.initializer if readers[tensor.name]]
    if len(kept) < len(graph.initializer):
        _replace(graph.initializer, kept)


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
    """Make node names unique; a node with no name, or a duplicate one, takes the name of its first output."""
    names, seen = Names(node.name for node in graph.node), set[str]()
    for node in graph.node:
        if not node.name or node.name in seen:
            node.name = names.new(node.output[0])
        seen.add(node.name)
