"""Where Q/DQ goes: one placement that TensorRT and ONNX Runtime both run in integers.

- A convolution or dense layer reads its input through Q/DQ directly, and so does a residual addition, on both sides.
- A convolution's or a residual addition's result, after its ReLU, goes through Q/DQ too, for every consumer: ONNX
  Runtime has integer kernels only for the whole of DQ, layer, Q. The result of a dense layer does not need it.
- Slices, padding with zeros, max pooling and changes of shape keep values on the int8 grid, so a tensor behind them is
  quantized again with the same scale, which changes nothing. Padding in front of a convolution is left out of this: the
  exporter makes it part of the convolution.
- Transposed convolutions and squeeze-excite stay float, as do layer norm, softmax and attention, which are no layers here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from torch import fx

from edgedistill.errors import ConfigError, nearest
from edgedistill.quantize.capture import ATEN, CONVOLUTION, LINEAR, TRANSPOSED

INT8 = "int8"
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
KEEPS_GRID = RESHAPE | {ATEN.slice.Tensor, ATEN.select.int, ATEN.max_pool1d.default, ATEN.max_pool2d.default}
GATE = {ATEN.sigmoid.default, ATEN.hardsigmoid.default}
SMOOTH = GATE | {ATEN.hardswish.default, ATEN.silu.default, ATEN.gelu.default, ATEN.tanh.default}
AT_LEAST_ZERO = {ATEN.relu.default, ATEN.relu6.default, ATEN.softmax.int} | GATE
POOL = {ATEN.mean.dim, ATEN.adaptive_avg_pool1d.default, ATEN.adaptive_avg_pool2d.default}
# Below these values the activation's answer is constant, to within an int8 step.
FLOORS: dict[Any, float] = {ATEN.hardswish.default: -3.0, ATEN.hardsigmoid.default: -3.0, ATEN.silu.default: -8.0}
FLOAT_ONLY = {
    **dict.fromkeys(TRANSPOSED, "TensorRT runs a quantized transposed convolution in float"),
    ATEN.conv3d.default: "no placement for 3-D convolution",
    ATEN.conv3d.padding: "no placement for 3-D convolution",
    ATEN.embedding.default: "an embedding is a look-up",
    ATEN.lstm.input: "no placement for recurrent layers",
    ATEN.gru.input: "no placement for recurrent layers",
}
SKIPPED, SQUEEZE_EXCITE, COMPUTED = "skipped", "squeeze-excite", "its weight is computed, not stored"


@dataclass
class Placement:
    """What to insert: `edges` are (reader, index of its argument), `results` are read through Q/DQ by everything."""

    layers: list[fx.Node] = field(default_factory=list)
    edges: list[tuple[fx.Node, int]] = field(default_factory=list)
    results: list[fx.Node] = field(default_factory=list)
    report: dict[str, str] = field(default_factory=dict)


def place(graph: fx.Graph, skip: tuple[str, ...]) -> Placement:
    """Choose the int8 layers of a captured graph and the tensors to quantize for them.

    Raises:
        ConfigError: `skip` names no module that holds a layer.
    """
    placement = Placement()
    layers = [(node, path) for node in graph.nodes for path in _paths(node)]
    _require_known(skip, [path for _, path in layers])
    gating = set(_squeeze_excite(graph))
    for node, path in layers:
        reason = SKIPPED if _within(path, skip) else SQUEEZE_EXCITE if node in gating else _float_reason(node)
        if reason is None:
            placement.layers.append(node)
        # A module that is called more than once is int8 only when every call is.
        if reason is not None or path not in placement.report:
            placement.report[path] = INT8 if reason is None else f"float: {reason}"
    chosen = set(placement.layers)
    for node in graph.nodes:
        if node in chosen:
            placement.edges.append((node, 0))
            placement.results += _result(node) if node.target in CONVOLUTION else []
        elif _residual(node, placement.results):
            placement.edges += [(node, 0), (node, 1)]
            placement.results += _result(node)
    return placement


def source(node: fx.Node, results: list[fx.Node]) -> fx.Node | None:
    """Return the quantized result that a tensor's values come from unchanged, if there is one."""
    while node not in results:
        if not (node.target in KEEPS_GRID or _pads_with_zeros(node)):
            return None
        node = cast("fx.Node", node.args[0])
    return node


def pads_layer(node: fx.Node, reader: fx.Node) -> bool:
    """Return whether a tensor is spatial zero padding for a convolution, which the exporter makes part of it."""
    if reader.target not in CONVOLUTION or not _pads_with_zeros(node):
        return False
    spatial: int = node.meta["val"].dim() - 2
    return len(cast("list[int]", node.args[1])) <= 2 * spatial


def floor_of(result: fx.Node) -> float | None:
    """Return the value below which all readers of a tensor answer alike, or None."""
    floors = {FLOORS.get(reader.target) for reader in result.users}
    return floors.pop() if len(floors) == 1 else None


def never_negative(node: fx.Node) -> bool:
    """Tell whether a tensor cannot hold a negative value, whatever the input, by the operators that make it."""
    if node.target in CLIP - AT_LEAST_ZERO:
        lowest = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val"))
        return isinstance(lowest, (int, float)) and lowest >= 0
    if node.target is ATEN.cat.default:
        return all(never_negative(part) for part in cast("list[fx.Node]", node.args[0]))
    if node.target in KEEPS_GRID | POOL or _pads_with_zeros(node):
        return never_negative(cast("fx.Node", node.args[0]))
    return node.target in AT_LEAST_ZERO


def _paths(node: fx.Node) -> Iterator[str]:
    """Yield the module path of a weighted layer, from the name of its weight."""
    if node.target in CONVOLUTION | LINEAR or node.target in FLOAT_ONLY:
        stored = [str(tensor.target) for tensor in node.all_input_nodes if tensor.op == "get_attr"]
        name = stored[0] if stored else node.name
        yield name.rpartition(".")[0] or name


def _float_reason(node: fx.Node) -> str | None:
    if node.target in FLOAT_ONLY:
        return FLOAT_ONLY[node.target]
    return None if cast("fx.Node", node.args[1]).op == "get_attr" else COMPUTED


def _within(path: str, modules: tuple[str, ...]) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def _require_known(skip: tuple[str, ...], paths: list[str]) -> None:
    parts = [path.split(".") for path in paths]
    known = {".".join(names[: end + 1]) for names in parts for end in range(len(names))}
    for path in skip:
        if path not in known:
            raise ConfigError(f"there is no layer {path!r} to keep in float{nearest(path, known)}")


def _pads_with_zeros(node: fx.Node) -> bool:
    if node.target not in PAD:
        return False
    pads, *rest = node.args[1:]
    constant = node.target is ATEN.constant_pad_nd.default or not rest or rest[0] == "constant"
    value = node.args[-1] if isinstance(node.args[-1], (int, float)) else 0
    return constant and not value and all(isinstance(pad, int) and pad >= 0 for pad in cast("list[int]", pads))


def _result(node: fx.Node) -> list[fx.Node]:
    """Return the tensor to quantize behind a layer: after its ReLU; nothing when it is what the model returns."""
    readers = list(node.users)
    if len(readers) == 1 and readers[0].target in CLIP:
        node = readers[0]
    return [] if any(reader.op == "output" for reader in node.users) else [node]


def _residual(node: fx.Node, results: list[fx.Node]) -> bool:
    """Return whether a node adds two activations of one shape, of which a quantized result is one."""
    if node.target is not ATEN.add.Tensor or node.kwargs.get("alpha", 1) != 1:
        return False
    terms = [term for term in node.args if isinstance(term, fx.Node) and term.op != "get_attr"]
    if len(terms) != 2 or terms[0].meta["val"].shape != terms[1].meta["val"].shape:
        return False
    return any(source(term, results) is not None for term in terms)


def _squeeze_excite(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield the layers between a global pooling and a gate that multiplies a larger tensor."""
    for gate in graph.nodes:
        if gate.target in GATE and any(_gates(reader, gate) for reader in gate.users):
            node, layers = cast("fx.Node", gate.args[0]), []
            while node.target in CONVOLUTION | LINEAR | CLIP | SMOOTH | RESHAPE:
                layers += [node] if node.target in CONVOLUTION | LINEAR else []
                node = cast("fx.Node", node.args[0])
            if node.target in POOL:
                yield from layers


def _gates(reader: fx.Node, gate: fx.Node) -> bool:
    """Return whether a reader multiplies something larger by the gate, perhaps after a change of the gate's shape."""
    if reader.target in RESHAPE:
        return any(_gates(further, reader) for further in reader.users)
    if reader.target is not ATEN.mul.Tensor:
        return False
    larger: bool = reader.meta["val"].shape != gate.meta["val"].shape
    return larger
