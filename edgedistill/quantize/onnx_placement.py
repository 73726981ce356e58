"""Where Q/DQ goes in a graph that somebody else exported: the placement of `placement`, by ONNX's operators."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx

from edgedistill.errors import ConfigError, nearest
from edgedistill.graphs.index import Index
from edgedistill.graphs.operators import KEEPS_GRID, RESHAPES
from edgedistill.quantize.placement import COMPUTED, INT8, SKIPPED, SQUEEZE_EXCITE

WEIGHTED: Final = frozenset({"Conv", "Gemm", "MatMul"})
CLIPS: Final = frozenset({"Relu", "Clip"})
GATES: Final = frozenset({"Sigmoid", "HardSigmoid"})
POOLS: Final = frozenset({"GlobalAveragePool", "ReduceMean"})
AT_LEAST_ZERO: Final = GATES | {"Relu", "Softmax"}
FLOORS: Final = {"HardSwish": -3.0}
"""Below these values the operator's answer is constant."""
FLOAT_ONLY: Final = {
    "ConvTranspose": "TensorRT runs a quantized transposed convolution in float",
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "no placement for recurrent layers"),
}


@dataclass
class Placement:
    """What to insert: `edges` are (reader, place of its input), `results` are tensors that everything reads through Q/DQ."""

    layers: list[onnx.NodeProto] = field(default_factory=list)
    edges: list[tuple[onnx.NodeProto, int]] = field(default_factory=list)
    results: dict[str, None] = field(default_factory=dict)
    report: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A graph with its look-ups; `shapes` has what shape inference found."""

    graph: onnx.GraphProto
    index: Index
    returned: frozenset[str]
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Graph:
        """Index a model as it is now."""
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        shapes = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        returned = frozenset(output.name for output in model.graph.output)
        return cls(model.graph, Index.of(model.graph), returned, shapes)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """Return the one node that reads a tensor, if nothing else does, the outputs included."""
        return self.index.users[name][0] if self.index.readers[name] == 1 and name in self.index.users else None


def place(graph: Graph, skip: tuple[str, ...]) -> Placement:
    """Choose the int8 layers of a graph whose nodes have names, and the tensors to quantize for them.

    Raises:
        ConfigError: `skip` names no layer.
    """
    placement = Placement()
    layers = {node.name for node in graph.graph.node if _is_layer(graph, node)}
    skipped = frozenset(skip)
    for name in skip:
        if name not in layers:
            raise ConfigError(f"there is no layer {name!r} to keep in float{nearest(name, layers)}")
    gating = {node.name for node in _squeeze_excite(graph)}
    for node in graph.graph.node:
        if node.name in layers:
            reason = _float_reason(graph, node)
            reason = (
                SKIPPED if node.name in skipped else SQUEEZE_EXCITE if node.name in gating and not reason else reason
            )
            placement.report[node.name] = INT8 if reason is None else f"float: {reason}"
            if reason is None:
                placement.layers.append(node)
                placement.edges.append((node, 0))
                placement.results |= _result(graph, node) if node.op_type == "Conv" else {}
        elif _is_residual(graph, node, placement.results):
            placement.edges += [(node, 0), (node, 1)]
            placement.results |= _result(graph, node)
    return placement


def source(graph: Graph, name: str, results: Collection[str]) -> str | None:
    """Return the quantized result that a tensor's values come from unchanged, if there is one."""
    while name not in results:
        node = graph.index.producer.get(name)
        if node is None or not (node.op_type in KEEPS_GRID or _pads_with_zeros(graph, node)):
            return None
        name = node.input[0]
    return name


def never_negative(graph: Graph, name: str) -> bool:
    """Tell whether a tensor cannot hold a negative value, whatever the input, by the operators that make it."""
    node = graph.index.producer.get(name)
    if node is None:
        return False
    if node.op_type == "Clip":
        lowest = graph.index.value(node.input[1]) if len(node.input) > 1 else None
        return lowest is not None and float(lowest) >= 0
    if node.op_type == "Concat":
        return all(never_negative(graph, part) for part in node.input)
    if node.op_type in KEEPS_GRID | POOLS or _pads_with_zeros(graph, node):
        return never_negative(graph, node.input[0])
    return node.op_type in AT_LEAST_ZERO


def _is_layer(graph: Graph, node: onnx.NodeProto) -> bool:
    """Tell a layer from a product of two activations."""
    product = node.op_type in {"Gemm", "MatMul"} and not any(name in graph.index.stored for name in node.input[:2])
    return (node.op_type in WEIGHTED and not product) or node.op_type in FLOAT_ONLY


def _float_reason(graph: Graph, node: onnx.NodeProto) -> str | None:
    if node.op_type in FLOAT_ONLY:
        return FLOAT_ONLY[node.op_type]
    weight = graph.index.value(node.input[1])
    if weight is None or node.input[0] in graph.index.stored:
        return COMPUTED
    if weight.ndim != 2 and node.op_type != "Conv":
        return f"no placement for a product with a weight of {weight.ndim} dimensions"
    if weight.ndim > 4:
        return "no placement for 3-D convolution"
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if any(onnx.helper.get_attribute_value(a) != plain.get(a.name, 1) for a in node.attribute if a.name in plain):
        return "no placement for a Gemm that scales or transposes"
    return None if weight.dtype == np.float32 else f"its weight is {weight.dtype}"


def _result(graph: Graph, node: onnx.NodeProto) -> dict[str, None]:
    """Return the tensor to quantize behind a layer: after its ReLU; nothing when it is what the model returns."""
    name = node.output[0]
    reader = graph.only_reader(name)
    if reader is not None and _clips(graph, reader):
        name = reader.output[0]
    return {} if name in graph.returned or name not in graph.index.users else {name: None}


def _clips(graph: Graph, node: onnx.NodeProto) -> bool:
    bounds = [name for name in node.input[1:] if name]
    return node.op_type in CLIPS and all(name in graph.index.stored for name in bounds)


def _is_residual(graph: Graph, node: onnx.NodeProto, results: Collection[str]) -> bool:
    """Return whether a node adds two activations of one shape, of which a quantized result is one."""
    if node.op_type != "Add" or any(name in graph.index.stored for name in node.input):
        return False
    shapes = [graph.shapes.get(name) for name in node.input]
    return shapes[0] == shapes[1] and any(source(graph, name, results) is not None for name in node.input)


def _pads_with_zeros(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Pad" or any(entry.name == "mode" and entry.s != b"constant" for entry in node.attribute):
        return False
    values = [graph.index.value(name) for name in node.input[1:3] if name]
    if any(value is None for value in values):
        return False
    pads, *filling = [np.asarray(value, np.float64) for value in values]
    return bool((pads >= 0).all()) and not any(value.any() for value in filling)


def _squeeze_excite(graph: Graph) -> Iterator[onnx.NodeProto]:
    """Yield the layers between a global pooling and a gate that multiplies a larger tensor."""
    passed = WEIGHTED | CLIPS | RESHAPES | GATES | {"HardSwish", "Add"}
    for gate in graph.graph.node:
        if gate.op_type in GATES and _multiplies_larger(graph, gate.output[0]):
            node, layers = graph.index.producer.get(gate.input[0]), list[onnx.NodeProto]()
            while node is not None and node.op_type in passed:
                layers += [node] if node.op_type in WEIGHTED else []
                computed = [name for name in node.input if name not in graph.index.stored]
                node = graph.index.producer.get(computed[0]) if len(computed) == 1 else None
            if node is not None and node.op_type in POOLS:
                yield from layers


def _multiplies_larger(graph: Graph, gate: str) -> bool:
    for reader in graph.index.users.get(gate, ()):
        if reader.op_type in RESHAPES and _multiplies_larger(graph, reader.output[0]):
            return True
        if reader.op_type == "Mul" and graph.shapes.get(reader.output[0]) != graph.shapes.get(gate):
            return True
    return False
