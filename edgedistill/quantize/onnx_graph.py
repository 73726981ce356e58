"""Describe an ONNX model for the placement; tensors have the names of the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx

from edgedistill.graphs.index import Index
from edgedistill.graphs.operators import KEEPS_GRID, RESHAPES, copies_nearest
from edgedistill.quantize.placement import COMPUTED, Graph, Operation, OperationKind

WEIGHTED: Final = frozenset({"Conv", "Gemm", "MatMul"})
KINDS: Final = {
    **dict.fromkeys(KEEPS_GRID, OperationKind.MOVE),
    **dict.fromkeys(RESHAPES, OperationKind.RESHAPE),
    "Conv": OperationKind.CONVOLUTION,
    "Gemm": OperationKind.DENSE,
    "MatMul": OperationKind.DENSE,
    "Relu": OperationKind.CLIP,
    "Clip": OperationKind.CLIP,
    **dict.fromkeys(("Sigmoid", "HardSigmoid"), OperationKind.GATE),
    **dict.fromkeys(("Elu", "LeakyRelu", "Softplus", "Tanh"), OperationKind.ACTIVATION),
    **dict.fromkeys(("Gelu", "HardSwish", "Mish", "Swish"), OperationKind.SMOOTH),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), OperationKind.POOL),
    "Add": OperationKind.ADD,
    "Mul": OperationKind.MULTIPLY,
    "Concat": OperationKind.CONCAT,
    "Softmax": OperationKind.SOFTMAX,
}
FLOAT_ONLY: Final = {
    "ConvTranspose": "TensorRT runs a quantized transposed convolution in float",
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "no placement for recurrent layers"),
}
TABLE: Final = 10_000
"""The least number of values of an embedding whose table becomes int8; below, the size does not count."""
SWISH_FLOOR: Final = -8.0
"""Below this value, x * sigmoid(x) is constant to within an int8 step."""


@dataclass(frozen=True)
class Bias:
    """The node that adds a dense layer's bias, and the index of the bias among the node's inputs."""

    node: onnx.NodeProto
    place: int


class OnnxGraph:
    """An ONNX model with named nodes, its index, and its description as a `Graph`.

    `nodes` maps each operation of the graph to the ONNX node that reads its inputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self._shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values
        }
        self.index, self.nodes = Index.of(model.graph), dict[str, onnx.NodeProto]()
        entries = [Operation(one.name, shape=self._shapes[one.name]) for one in model.graph.input]
        self.graph = Graph((*entries, *self._operations(model.graph)), (output.name for output in model.graph.output))

    def bias(self, layer: onnx.NodeProto) -> Bias | None:
        """Return the node that adds a layer's stored bias; for a MatMul, the Add that alone reads its result."""
        if layer.op_type != "MatMul":
            return Bias(layer, 2) if len(layer.input) > 2 and layer.input[2] else None
        name = layer.output[0]
        (reader, *_) = self.index.users.get(name, ()) or (None,)
        if self.index.readers[name] != 1 or reader is None or reader.op_type != "Add":
            return None
        place = 1 - list(reader.input).index(name)
        return Bias(reader, place) if reader.input[place] in self.index.stored else None

    def _operations(self, graph: onnx.GraphProto) -> Iterator[Operation]:
        added = set[int]()
        for node in graph.node:
            if id(node) in added:
                continue
            result, *others = node.output
            bias = self.bias(node) if self._is_layer(node) and node.op_type == "MatMul" else None
            if bias is not None:
                added.add(id(bias.node))
                result = bias.node.output[0]
            self.nodes[result] = node
            yield self._operation(node, result)
            yield from (Operation(name) for name in others if name)

    def _operation(self, node: onnx.NodeProto, result: str) -> Operation:
        gated = self._self_gated(node)
        inputs = [gated] if gated else [name for name in node.input if name and name not in self.index.stored]
        is_layer = self._is_layer(node)
        return Operation(
            name=result, kind=OperationKind.SMOOTH if gated else self._kind(node), inputs=tuple(inputs),
            shape=self._shapes.get(result), layer=node.name if is_layer else None,
            reason=self._float_reason(node) if is_layer else None, lowest=self._lowest(node), floor=self._floor(node),
        )  # fmt: skip

    def _kind(self, node: onnx.NodeProto) -> OperationKind:
        if self._is_embedding(node):
            return OperationKind.EMBEDDING
        stored = [name in self.index.stored for name in node.input]
        kind = KINDS.get(node.op_type, OperationKind.OTHER)
        if kind is OperationKind.DENSE and not self._is_layer(node):
            return OperationKind.OTHER
        if kind is OperationKind.CLIP and not all(
            found or not name for found, name in zip(stored[1:], node.input[1:], strict=True)
        ):
            return OperationKind.OTHER
        if kind is OperationKind.CONCAT and any(stored):
            return OperationKind.OTHER
        takes = node.op_type == "Gather" and stored == [False, True]
        return OperationKind.MOVE if takes or copies_nearest(node) or self._pads_with_zeros(node) else kind

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        """Return whether a node is a layer, and not a product of two activations."""
        product = node.op_type in {"Gemm", "MatMul"} and not any(name in self.index.stored for name in node.input[:2])
        return (node.op_type in WEIGHTED and not product) or node.op_type in FLOAT_ONLY or self._is_embedding(node)

    def _is_embedding(self, node: onnx.NodeProto) -> bool:
        """Return whether a node takes computed rows of a large stored table that nothing else reads."""
        table = self.index.stored.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or node.input[1] in self.index.stored:
            return False
        is_float = onnx.helper.tensor_dtype_to_np_dtype(table.data_type) == np.float32
        by_row = all(one.op_type == "Gather" and not _axis(one) for one in self.index.users[node.input[0]])
        return is_float and by_row and table.dims[0] * table.dims[1] >= TABLE

    def _float_reason(self, node: onnx.NodeProto) -> str | None:
        if node.op_type in FLOAT_ONLY or self._is_embedding(node):
            return FLOAT_ONLY.get(node.op_type)
        weight = self.index.stored.get(node.input[1])
        if weight is None or node.input[0] in self.index.stored:
            return COMPUTED
        if len(weight.dims) != 2 and node.op_type != "Conv":
            return f"no placement for a product with a weight of {len(weight.dims)} dimensions"
        if len(weight.dims) > 4:
            return "no placement for 3-D convolution"
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        if any(_value(entry) != plain.get(entry.name, 1) for entry in node.attribute if entry.name in plain):
            return "no placement for a Gemm that scales or transposes"
        dtype = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)
        return None if dtype == np.float32 else f"its weight is {dtype}"

    def _lowest(self, node: onnx.NodeProto) -> float | None:
        if node.op_type == "Relu":
            return 0.0
        lowest = self.index.value(node.input[1]) if node.op_type == "Clip" and len(node.input) > 1 else None
        return None if lowest is None else float(lowest)

    def _floor(self, node: onnx.NodeProto) -> float | None:
        """Return the value below which an activation is constant; a sigmoid in x * sigmoid(x) has the product's."""
        if node.op_type == "HardSwish":
            return -3.0
        if node.op_type in {"Sigmoid", "HardSigmoid"}:
            users = self.index.users.get(node.output[0], ())
            multiplied = len(users) == 1 and self._self_gated(users[0]) == node.input[0]
            return self._gate_floor(node) if multiplied or node.op_type == "HardSigmoid" else None
        gated = self._self_gated(node)
        gates = [self.index.producer.get(name) for name in node.input] if gated else []
        return next((self._gate_floor(gate) for gate in gates if gate is not None and gate.input[0] == gated), None)

    def _gate_floor(self, gate: onnx.NodeProto) -> float:
        if gate.op_type == "Sigmoid":
            return SWISH_FLOOR
        attributes = {"alpha": 0.2, "beta": 0.5} | {entry.name: float(_value(entry)) for entry in gate.attribute}
        return -attributes["beta"] / attributes["alpha"]

    def _self_gated(self, node: onnx.NodeProto) -> str | None:
        """Return x if a node computes x * sigmoid(x), which is how exporters write SiLU and hard-swish."""
        if node.op_type != "Mul":
            return None
        for name, other in (node.input, node.input[::-1]):
            gate = self.index.producer.get(other)
            if gate is not None and KINDS.get(gate.op_type) is OperationKind.GATE and gate.input[0] == name:
                return name
        return None

    def _pads_with_zeros(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Pad" or any(entry.name == "mode" and entry.s != b"constant" for entry in node.attribute):
            return False
        values = [self.index.value(name) for name in node.input[1:3] if name]
        if any(value is None for value in values):
            return False
        pads, *filling = [np.asarray(value, np.float64) for value in values]
        return bool((pads >= 0).all()) and not any(value.any() for value in filling)


def _axis(node: onnx.NodeProto) -> int:
    return next((entry.i for entry in node.attribute if entry.name == "axis"), 0)


def _value(attribute: onnx.AttributeProto) -> Any:
    return onnx.helper.get_attribute_value(attribute)
