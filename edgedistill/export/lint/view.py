"""An index of an ONNX model for the rules: roundings, layers with a weight, and the path from one to the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedistill.graphs.index import Index, axis_of, lift_constants
from edgedistill.kits.kits import Form, Kit
from edgedistill.records.base import Encoding

ROUNDING = {"QuantizeLinear", "DequantizeLinear"}
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
MOVES = {"Identity", "MaxPool", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that only move values, and that every engine moves a DequantizeLinear across (measured)."""
MOVES_FOR_SOME = {"Concat", "Div", "Flatten", "Gather", "Mul", "Split"}
"""Operators that some engines move a DequantizeLinear across, and others do not."""


ACTIVATIONS: Final[dict[Encoding, tuple[str, ...]]] = {
    "s8-f32": ("int8",), "u8-f32": ("int8", "uint8"), "u8-i32": ("uint8",), "s8-i32": ("int8",), "s8-f16": ("int8",),
    "dyn-i32": ("uint8",), "w8-f32": ("int8",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KitLimits:
    """The limits of a kit's engine: the types of `activations` and `biases` are those of its encodings."""

    opset: int
    unsupported: frozenset[str]
    activations: frozenset[str]
    biases: frozenset[str]

    @classmethod
    def of(cls, kit: Kit, forms: Iterable[Form]) -> KitLimits:
        """Return the limits of a kit's engine over all of these forms, of which there is at least one."""
        some = tuple(forms)
        return cls(
            opset=max(form.opset for form in some),
            unsupported=frozenset(kit.unsupported),
            activations=frozenset(name for form in some for name in ACTIVATIONS[form.encoding]),
            biases=frozenset("int32" if form.encoding.endswith("i32") else "float" for form in some),
        )


@dataclass(frozen=True, slots=True)
class WeightedLayer:
    """A node with a stored weight: its inputs by name, the node that adds its bias, and its weight's output axis."""

    node: onnx.NodeProto
    data: str
    weight: str
    axis: int
    bias: str | None
    adds_bias: onnx.NodeProto


@dataclass(frozen=True, slots=True)
class Trace:
    """The DequantizeLinear that a tensor comes from (None: there is none), and the nodes between, the nearest first."""

    dequantizer: onnx.NodeProto | None
    through: tuple[onnx.NodeProto, ...]

    @property
    def direct(self) -> bool:
        """Whether engines treat the tensor as dequantized: the nodes between only move values."""
        return self.dequantizer is not None and all(node.op_type in MOVES for node in self.through)


@dataclass(frozen=True)
class View:
    """An indexed model; `limits` are those of the kit to check for, if any."""

    model: onnx.ModelProto
    index: Index
    limits: KitLimits | None

    @classmethod
    def of(cls, model: onnx.ModelProto, limits: KitLimits | None = None) -> View:
        """Index a copy of a model, its constants among the stored tensors."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        lift_constants(copy.graph)
        return cls(copy, Index.of(copy.graph), limits)

    @property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor."""
        return self.index.users

    @cached_property
    def roundings(self) -> list[onnx.NodeProto]:
        """All QuantizeLinear and DequantizeLinear nodes."""
        return [node for node in self.model.graph.node if node.op_type in ROUNDING]

    @cached_property
    def heads(self) -> list[onnx.NodeProto]:
        """The roundings of activations, each by its first node: a DequantizeLinear only where no other comes before it.

        Rows of a stored table are no activations: their scales may differ.
        """
        activations = [
            node for node in self.roundings if not self.is_stored(node.input[0]) and not self._is_row(node.input[0])
        ]
        return [
            node
            for node in activations
            if node.op_type == "QuantizeLinear" or self._maker_of_integers(node.input[0])[0] != "QuantizeLinear"
        ]

    @cached_property
    def weights(self) -> list[onnx.NodeProto]:
        """The DequantizeLinear nodes of stored tensors, biases among them."""
        return [node for node in self.roundings if node.op_type == "DequantizeLinear" and self.is_stored(node.input[0])]

    @cached_property
    def layers(self) -> list[WeightedLayer]:
        """The convolutions and matrix products with a stored weight."""
        found = [self._layer(node) for node in self.model.graph.node if node.op_type in WEIGHTED]
        return [layer for layer in found if layer is not None]

    @cached_property
    def products(self) -> list[onnx.NodeProto]:
        """The products of two activations."""
        weighted = {layer.node.output[0] for layer in self.layers}
        nodes = [node for node in self.model.graph.node if node.op_type in {"MatMul", "Gemm"}]
        return [node for node in nodes if node.output[0] not in weighted]

    def quantized(self, layer: WeightedLayer) -> bool:
        """Return whether a layer's weight comes from a DequantizeLinear, and its data too, at any distance."""
        return self.dequantizer_of_weight(layer) is not None and self.trace(layer.data).dequantizer is not None

    def quantizer(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the QuantizeLinear whose result a DequantizeLinear reads directly."""
        producer = self.index.producer.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        return producer if producer is not None and producer.op_type == "QuantizeLinear" else None

    def is_stored(self, name: str) -> bool:
        """Return whether a tensor is stored, or quantized, dequantized or reordered from a stored one."""
        while name not in self.index.stored:
            node = self.index.producer.get(name)
            if node is None or node.op_type not in ROUNDING | {"Cast", "Identity", "Reshape", "Transpose"}:
                return False
            name = node.input[0]
        return True

    def _is_row(self, name: str) -> bool:
        """Return whether a tensor has rows that a Gather takes from a stored one."""
        node = self.index.producer.get(name)
        return node is not None and node.op_type == "Gather" and self.is_stored(node.input[0])

    def dequantizer_of_weight(self, layer: WeightedLayer) -> onnx.NodeProto | None:
        """Return the DequantizeLinear of a layer's weight, also if it is before a transposition."""
        return next((node for node in self.before(layer.weight) if node.op_type == "DequantizeLinear"), None)

    def axis_of_scales(self, layer: WeightedLayer) -> int | None:
        """Return the axis of a layer's weight, as the layer reads it, that its scales run along.

        None if the weight is not dequantized, has one scale, or is reshaped before the layer reads it.
        """
        dequantizer, between = None, []
        for node in self.before(layer.weight):
            if node.op_type == "DequantizeLinear":
                dequantizer = node
                break
            between.append(node)
        scale = None if dequantizer is None else self.scale(dequantizer)
        if dequantizer is None or scale is None or scale.size == 1:
            return None
        rank = self._rank(dequantizer.input[0])
        axis = axis_of(dequantizer) % rank
        for node in reversed(between):
            if node.op_type not in {"Identity", "Transpose"}:
                return None
            order = next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), range(rank)[::-1])
            axis = axis if node.op_type == "Identity" else list(order).index(axis)
        return axis

    def before(self, name: str) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that compute a tensor from a stored one, the nearest first."""
        while (node := self.index.producer.get(name)) is not None:
            yield node
            name = node.input[0]

    def scale(self, node: onnx.NodeProto) -> NDArray[np.float64] | None:
        """Return the scale of a rounding, or None where it is computed."""
        value = self.index.value(node.input[1])
        return None if value is None else value.astype(np.float64)

    def zero_point(self, node: onnx.NodeProto) -> NDArray[np.generic] | None:
        """Return the zero point of a rounding (None if computed); the standard's default if none is written."""
        if len(node.input) > 2 and node.input[2]:
            return self.index.value(node.input[2])
        if node.op_type == "QuantizeLinear":
            chosen = next((attribute.i for attribute in node.attribute if attribute.name == "output_dtype"), 0)
            return np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(chosen) if chosen else np.uint8)
        kind = self._integer_type(node.input[0])
        return None if kind is None else np.zeros((), kind)

    def _integer_type(self, name: str) -> np.dtype[np.generic] | None:
        """Return the type of the integers that a DequantizeLinear reads, where the file shows it."""
        kind, name = self._maker_of_integers(name)
        if kind == "QuantizeLinear":
            zero = self.zero_point(self.index.producer[name])
            return None if zero is None else zero.dtype
        inputs = {value.name: value.type.tensor_type.elem_type for value in self.model.graph.input}
        found = self.index.stored[name].data_type if name in self.index.stored else inputs.get(name)
        return None if found is None else onnx.helper.tensor_dtype_to_np_dtype(found)

    def _maker_of_integers(self, name: str) -> tuple[str, str]:
        """Follow integers back through clips and moves; return the operator before ("" for none) and its result."""
        while (node := self.index.producer.get(name)) is not None and node.op_type in MOVES | {"Clip"}:
            name = node.input[0]
        return ("" if node is None else node.op_type), name

    def trace(self, name: str) -> Trace:
        """Follow a tensor back, through operators of one input that is not stored, to a DequantizeLinear."""
        if name not in self._traces:  # chains of Concat ask for each tensor many times
            self._traces[name] = self._trace(name)
        return self._traces[name]

    @cached_property
    def _traces(self) -> dict[str, Trace]:
        """The traces that were found, by the name of the tensor."""
        return {}

    def _trace(self, name: str) -> Trace:
        through: list[onnx.NodeProto] = []
        while (node := self.index.producer.get(name)) is not None:
            if node.op_type == "DequantizeLinear":
                return Trace(node, tuple(through))
            sources = [source for source in node.input if source and not self.is_stored(source)]
            if node.op_type == "Concat" and all(self.trace(source).dequantizer is not None for source in sources):
                sources = sources[:1]
            if len(sources) != 1 or node.op_type in WEIGHTED:
                return Trace(None, tuple(through))
            through.append(node)
            name = sources[0]
        return Trace(None, tuple(through))

    def _layer(self, node: onnx.NodeProto) -> WeightedLayer | None:
        """Return a node as a layer: its weight is its second input or, for a product, the stored input."""
        place = next((place for place in (1, 0) if self.is_stored(node.input[place])), None)
        if place is None or self.is_stored(node.input[1 - place]):
            return None
        if node.op_type in {"Conv", "ConvTranspose"} and place == 0:
            return None
        bias, adds_bias = self._bias(node)
        return WeightedLayer(node, node.input[1 - place], node.input[place], self._axis(node, place), bias, adds_bias)

    def _axis(self, node: onnx.NodeProto, place: int) -> int:
        """Return the axis of a weight that has the layer's outputs."""
        if node.op_type in {"Conv", "ConvTranspose"}:
            return int(node.op_type == "ConvTranspose")
        if node.op_type == "Gemm":
            transposed = "transB" if place == 1 else "transA"
            return int(any(entry.name == transposed and entry.i for entry in node.attribute)) ^ place
        rank = self._rank(node.input[place])
        return max(rank - 1 if place == 1 else rank - 2, 0)

    def _rank(self, name: str) -> int:
        """Return the number of axes of a stored tensor after reshapes."""
        for node in self.before(name):
            if node.op_type == "Reshape":
                shape = self.index.value(node.input[1])
                return 2 if shape is None else shape.size
            name = node.input[0]
        value = self.index.value(name)
        return 2 if value is None else value.ndim

    def _bias(self, node: onnx.NodeProto) -> tuple[str | None, onnx.NodeProto]:
        """Return a layer's bias: its third input or, for a MatMul, the other input of the Add after it."""
        if len(node.input) > 2 and node.input[2]:
            return node.input[2], node
        (reader, *others) = self.readers.get(node.output[0], ()) or (None,)
        if node.op_type == "MatMul" and reader is not None and not others and reader.op_type == "Add":
            added = next((name for name in reader.input if name != node.output[0] and self.is_stored(name)), None)
            if added is not None:
                return added, reader
        return None, node


def label(node: onnx.NodeProto) -> str:
    """Return a node's name or, where it has none, the name of its result."""
    return node.name or next(iter(node.output), node.op_type)
