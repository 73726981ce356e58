"""The placement rule for int8: which tensors get QuantizeLinear and DequantizeLinear (Q/DQ).

TensorRT and ONNX Runtime both run this placement in integers.

- A convolution or dense layer reads its input directly through Q/DQ. A residual addition reads both of its inputs so.
- All readers of the result of a convolution or a residual addition read the result through Q/DQ: ONNX Runtime has
  integer kernels only for the whole sequence DQ, layer, Q. The result of a dense layer needs Q/DQ only before an
  activation that ONNX Runtime would fuse with the layer in float, and only if an operation reads the activation.
- Q/DQ follows the ReLU or clip after a layer; if the model returns the clipped tensor, Q/DQ comes before the clip.
- In a file, `float_results` takes back the rounding of a last layer whose channels share no scale.
- Slices, zero padding, max pooling, upsampling by copies (mode "nearest") and reshapes keep values on the int8 grid. The
  tensor after such an operation is quantized again with the same scale, which changes nothing.
- The table of an embedding is stored in int8 and read in float: it is most of the size of a small encoder.
- Transposed convolutions and squeeze-excite stay in float. Layer norm, softmax and attention do too: they are not
  layers here.

`fx_graph` and `onnx_graph` describe a captured torch model and an ONNX model as a `Graph`. The time that the placement
takes is linear in the size of the graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from edgedistill.errors import ConfigError, nearest

INT8 = "int8"
FLOAT_RESULT = "int8, result in float: "
"""Before the reason for which the result of an int8 layer is not rounded."""
SKIPPED, SQUEEZE_EXCITE = "skipped", "squeeze-excite"
COMPUTED, STORED = "its weight is computed, not stored", "its input is stored, not computed"


class OperationKind(Enum):
    """The kinds of operations that the placement distinguishes."""

    CONVOLUTION = auto()
    DENSE = auto()
    """A matrix product with a stored weight, including its bias."""
    EMBEDDING = auto()
    """The rows of a stored table that integers choose; its result is not rounded again."""
    CLIP = auto()
    GATE = auto()
    """A sigmoid, exact or piecewise linear: its values are from 0 to 1, and squeeze-excite multiplies by it."""
    ACTIVATION = auto()
    """Another activation that ONNX Runtime fuses with the layer before it."""
    SMOOTH = auto()
    """An activation that ONNX Runtime does not fuse."""
    RESHAPE = auto()
    MOVE = auto()
    """An operation whose result has only values of the input, or zeros."""
    POOL = auto()
    """A mean."""
    ADD = auto()
    MULTIPLY = auto()
    CONCAT = auto()
    SOFTMAX = auto()
    OTHER = auto()


LAYERS = {OperationKind.CONVOLUTION, OperationKind.DENSE}
FUSED = {OperationKind.GATE, OperationKind.ACTIVATION}
JOINS = FUSED | {OperationKind.CLIP}
"""Activations that ONNX Runtime fuses with the layer before them, in float."""
KEEPS_GRID = {OperationKind.RESHAPE, OperationKind.MOVE}
INSIDE_SQUEEZE_EXCITE = (
    LAYERS | FUSED | {OperationKind.CLIP, OperationKind.SMOOTH, OperationKind.RESHAPE, OperationKind.ADD}
)


@dataclass(frozen=True)
class Operation:
    """An operation, with the name of its result; an input of the graph has the kind OTHER and no inputs.

    `inputs` are the tensors that the operation reads, without stored ones. `layer` is the name of a weighted layer, and
    `reason` says why the layer cannot be int8. `lowest` is the lower bound of a clip. Below `floor`, the operation
    gives the same result for every input, to within an int8 step.
    """

    name: str
    kind: OperationKind = OperationKind.OTHER
    inputs: tuple[str, ...] = ()
    shape: tuple[object, ...] | None = None
    layer: str | None = None
    reason: str | None = None
    lowest: float | None = None
    floor: float | None = None


class Graph:
    """Operations by the name of their result, in topological order, and the tensors that the model returns."""

    def __init__(self, operations: Iterable[Operation], returned: Iterable[str]) -> None:
        self.operations = {one.name: one for one in operations}
        self.returned = frozenset(returned)
        self.readers: dict[str, list[Operation]] = {name: [] for name in self.operations}
        for one in self.operations.values():
            for name in dict.fromkeys(one.inputs):
                self.readers[name].append(one)

    def only_reader(self, name: str) -> Operation | None:
        """Return the only operation that reads a tensor; None if several do, or the model returns it."""
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.returned else None

    def floor(self, name: str) -> float | None:
        """Return the value below which all readers of a tensor give the same result, or None."""
        floors = {reader.floor for reader in self.readers[name]}
        return floors.pop() if len(floors) == 1 else None

    def never_negative(self, inputs: Collection[str] = ()) -> frozenset[str]:
        """Return the tensors that are never negative, judged by the operations that compute them.

        `inputs` are the graph's inputs that are never negative.
        """
        found = set(inputs)
        for one in self.operations.values():
            passes = one.kind in KEEPS_GRID | {OperationKind.POOL, OperationKind.CONCAT} and bool(one.inputs)
            clipped = one.kind is OperationKind.CLIP and one.lowest is not None and one.lowest >= 0
            if (
                clipped
                or one.kind in {OperationKind.GATE, OperationKind.SOFTMAX}
                or (passes and found.issuperset(one.inputs))
            ):
                found.add(one.name)
        return frozenset(found)


def is_int8(form: str) -> bool:
    """Return whether a layer's entry in a report says int8, with a rounded result or a float one."""
    return form == INT8 or form.startswith(FLOAT_RESULT)


@dataclass
class Placement:
    """The int8 layers and the positions of Q/DQ, by the names of tensors.

    `layers` become int8. `edges` are the inputs to read through Q/DQ, as (reader, index of its input); `results` are
    the tensors that all readers read through Q/DQ. `origins` maps each tensor to quantize to the tensor whose scale
    it shares, because both have the same values. `report` maps each layer to "int8" or "float: reason".
    """

    layers: list[str] = field(default_factory=list)
    edges: list[tuple[str, int]] = field(default_factory=list)
    results: dict[str, None] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    report: dict[str, str] = field(default_factory=dict)


def place(graph: Graph, skip: tuple[str, ...]) -> Placement:
    """Choose the int8 layers of a graph and the tensors to quantize for them.

    Raises:
        ConfigError: a path in `skip` is neither a layer nor a module that contains one.
    """
    placement = Placement()
    _choose(graph, skip, placement)
    chosen, sources = set(placement.layers), dict[str, str]()
    for one in graph.operations.values():
        if one.name in placement.results:
            sources[one.name] = one.name
        elif one.kind in KEEPS_GRID and one.inputs and one.inputs[0] in sources:
            sources[one.name] = sources[one.inputs[0]]
        if one.kind is OperationKind.EMBEDDING:
            continue
        if one.name in chosen:
            read, results = 1, _results(graph, one)
        elif _is_residual(graph, one, sources):
            read, results = 2, _results(graph, one)
        else:
            continue
        placement.edges += [(one.name, index) for index in range(read)]
        placement.results |= dict.fromkeys(results)
        sources |= {name: name for name in results}
    inputs = [graph.operations[reader].inputs[index] for reader, index in placement.edges]
    placement.origins = {name: sources.get(name, name) for name in (*placement.results, *inputs)}
    return placement


def _choose(graph: Graph, skip: tuple[str, ...], placement: Placement) -> None:
    layers = [(one, one.layer) for one in graph.operations.values() if one.layer is not None]
    _require_known(skip, [layer for _, layer in layers])
    gating = set(_squeeze_excite(graph))
    for one, layer in layers:
        reason = SKIPPED if _within(layer, skip) else one.reason or (SQUEEZE_EXCITE if one.name in gating else None)
        if reason is None:
            placement.layers.append(one.name)
        # A module that is called more than once is int8 only when every call is.
        if reason is not None or layer not in placement.report:
            placement.report[layer] = INT8 if reason is None else f"float: {reason}"


def _within(path: str, modules: tuple[str, ...]) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def _require_known(skip: tuple[str, ...], paths: list[str]) -> None:
    parts = [path.split(".") for path in paths]
    known = {".".join(names[: end + 1]) for names in parts for end in range(len(names))}
    for path in skip:
        if path not in known:
            raise ConfigError(f"there is no layer {path!r} to keep in float{nearest(path, known)}")


def _results(graph: Graph, one: Operation) -> list[str]:
    """Return the tensor to quantize after a layer or addition, as a list of one, or an empty list."""
    reader = graph.only_reader(one.name)
    clipped = reader if reader is not None and reader.kind is OperationKind.CLIP else None
    if one.kind is OperationKind.DENSE and not (
        reader is not None and reader.kind in JOINS and graph.readers[reader.name]
    ):
        return []
    names = [one.name] if clipped is None else [clipped.name, one.name]
    return [name for name in names if graph.readers[name] and name not in graph.returned][:1]


def _is_residual(graph: Graph, one: Operation, sources: dict[str, str]) -> bool:
    """Return whether an operation adds two activations of the same shape, at least one a quantized result."""
    if one.kind is not OperationKind.ADD or len(one.inputs) != 2:
        return False
    first, second = (graph.operations[name].shape for name in one.inputs)
    return first == second and any(name in sources for name in one.inputs)


def _squeeze_excite(graph: Graph) -> Iterator[str]:
    """Yield the layers between a global pooling and a gate that multiplies a larger tensor."""
    for gate in graph.operations.values():
        if gate.kind is not OperationKind.GATE or not gate.inputs or not _multiplies_larger(graph, gate):
            continue
        node, layers = graph.operations[gate.inputs[0]], list[str]()
        while node.kind in INSIDE_SQUEEZE_EXCITE and len(node.inputs) == 1:
            layers += [node.name] if node.kind in LAYERS else []
            node = graph.operations[node.inputs[0]]
        if node.kind is OperationKind.POOL:
            yield from layers


def _multiplies_larger(graph: Graph, gate: Operation) -> bool:
    """Return whether the gate multiplies a larger tensor, directly or after a reshape."""
    for reader in graph.readers[gate.name]:
        if reader.kind is OperationKind.RESHAPE and _multiplies_larger(graph, reader):
            return True
        if reader.kind is OperationKind.MULTIPLY and reader.shape != gate.shape:
            return True
    return False
