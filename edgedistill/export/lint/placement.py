"""Rules for the positions of roundings: before layers, before additions, after layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgedistill.export.lint.roundings import Faults
from edgedistill.export.lint.view import MOVES, MOVES_FOR_SOME, View, WeightedLayer, label

ACTIVATIONS = {"Clip", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Softplus", "Tanh"}
"""Activations that ONNX Runtime fuses with the layer before them."""


def between(view: View) -> Faults:
    """An operator that changes values, between a DequantizeLinear and the layer that needs it."""
    yield from _between(view, allowed=MOVES | MOVES_FOR_SOME)


def moved_between(view: View) -> Faults:
    """An operator that moves or scales values, between a DequantizeLinear and the layer that needs it."""
    for layer in view.layers:
        trace = view.trace(layer.data)
        kinds = {node.op_type for node in trace.through}
        if view.quantized(layer) and kinds & MOVES_FOR_SOME and kinds <= MOVES | MOVES_FOR_SOME:
            node = next(node for node in trace.through if node.op_type in MOVES_FOR_SOME)
            yield label(layer.node), f"{node.op_type} '{label(node)}' is between DequantizeLinear and the layer"


def _between(view: View, allowed: set[str]) -> Faults:
    for layer in view.layers:
        changing = [node for node in view.trace(layer.data).through if node.op_type not in allowed]
        if changing and view.quantized(layer):
            node = changing[-1]
            yield label(layer.node), f"{node.op_type} '{label(node)}' is between DequantizeLinear and the layer"


def float_inputs(view: View) -> Faults:
    """A layer with an integer weight and float data."""
    for layer in view.layers:
        if view.dequantizer_of_weight(layer) is not None and view.trace(layer.data).dequantizer is None:
            yield (
                label(layer.node),
                f"the weight of this {layer.node.op_type} is quantized, its input '{layer.data}' is not",
            )


def float_operands(view: View) -> Faults:
    """A layer, product or addition of which one operand is quantized and the other is not."""
    for layer in view.layers:
        if view.dequantizer_of_weight(layer) is None and view.index.dequantizer(layer.data) is not None:
            yield label(layer.node), f"the input of this {layer.node.op_type} is quantized, its weight is not"
    for node in view.products:
        operands = [view.trace(name).direct for name in node.input[:2]]
        if operands.count(True) == 1:
            yield label(node), f"operand '{node.input[operands.index(False)]}' of this {node.op_type} is not quantized"
    yield from _residuals(view)


def _residuals(view: View) -> Faults:
    """Additions of which one operand is an int8 tensor or a quantized layer's result, and the other a float.

    A float that is added to a layer's result is no fault if no QuantizeLinear reads it: it has no int8 form to add.
    """
    layers = [layer for layer in view.layers if view.quantized(layer)]
    results = {node.output[0] for layer in layers for node in (layer.node, layer.adds_bias)}
    for node in view.model.graph.node:
        names = [name for name in node.input if not view.is_stored(name)]
        if node.op_type != "Add" or len(names) != 2 or node.output[0] in results:
            continue
        for name, other in (names, names[::-1]):
            rounded_elsewhere = any(reader.op_type == "QuantizeLinear" for reader in view.readers[name])
            is_float = view.index.dequantizer(name) is None and name not in results
            beside_int8 = view.index.dequantizer(other) is not None or (other in results and rounded_elsewhere)
            if is_float and beside_int8:
                yield label(node), f"operand '{name}' of this addition is not quantized"


def unrounded_results(view: View) -> Faults:
    """Quantized layers whose result the next node does not round, although a later node rounds it."""
    rounded_later = _rounded_later(view)
    for layer, problem in _unrounded_layers(view):
        if not _makes_output(view, layer, rounded_later):
            yield label(layer.node), problem


def unrounded_outputs(view: View) -> Faults:
    """Quantized layers whose result no node rounds, because the result is, or leads only to, an output of the model."""
    rounded_later = _rounded_later(view)
    for layer, _ in _unrounded_layers(view):
        if _makes_output(view, layer, rounded_later):
            yield label(layer.node), f"the result of this {layer.node.op_type} is an output of the model in float"


def _unrounded_layers(view: View) -> Iterator[tuple[WeightedLayer, str]]:
    for layer in view.layers:
        if view.quantized(layer) and view.trace(layer.data).direct:
            problem = _unrounded(view, layer)
            if problem:
                yield layer, problem


def _makes_output(view: View, layer: WeightedLayer, rounded_later: set[str]) -> bool:
    result = layer.adds_bias.output[0]
    return result not in rounded_later or any(output.name == result for output in view.model.graph.output)


def _rounded_later(view: View) -> set[str]:
    """Return the tensors that a QuantizeLinear reads, directly or through other nodes."""
    found = set[str]()
    for node in reversed(view.model.graph.node):
        if node.op_type == "QuantizeLinear" or found.intersection(node.output):
            found.update(node.input)
    return found


def _unrounded(view: View, layer: WeightedLayer) -> str | None:
    last = layer.adds_bias
    readers = view.readers.get(last.output[0], ())
    if view.index.readers[last.output[0]] == 1 and readers:
        if readers[0].op_type == "QuantizeLinear":
            return None
        blocks = readers[0].op_type in ACTIVATIONS and not _absorbed(view, readers[0])
        # For a dense layer before an output's activation, ONNX Runtime has an integer kernel with float results.
        is_last = layer.node.op_type in {"Gemm", "MatMul"} and not view.readers.get(readers[0].output[0])
        if blocks and not is_last:
            return f"{readers[0].op_type} '{label(readers[0])}' is between the layer and QuantizeLinear"
    if layer.node.op_type in {"Gemm", "MatMul"} or (readers and readers[0].op_type in ACTIVATIONS):
        return None
    return f"no QuantizeLinear follows this {layer.node.op_type}, or another node reads its result too"


def _absorbed(view: View, activation: onnx.NodeProto) -> bool:
    """Return whether the rounding after an activation clips at 0 itself: its zero point is the least integer."""
    readers = view.readers.get(activation.output[0], ())
    if view.index.readers[activation.output[0]] != 1 or not readers or readers[0].op_type != "QuantizeLinear":
        return False
    zero = view.zero_point(readers[0])
    if zero is None or activation.op_type not in {"Clip", "Relu"}:
        return False
    return bool(np.all(zero == np.iinfo(zero.dtype.name).min))


def transposed_convolutions(view: View) -> Faults:
    """Transposed convolutions with quantized inputs."""
    for layer in view.layers:
        if layer.node.op_type == "ConvTranspose" and view.quantized(layer):
            yield label(layer.node), "a quantized transposed convolution"


def signed_concatenations(view: View) -> Faults:
    """Concatenations of int8 activations before a quantized convolution, whether rounded again or not."""
    for layer in view.layers:
        joined = _concatenation(view, layer.data) if layer.node.op_type == "Conv" and view.quantized(layer) else None
        if joined is not None:
            sources = [view.trace(name).dequantizer for name in joined.input]
            zeros = [None if source is None else view.zero_point(source) for source in sources]
            if any(zero is not None and zero.dtype == np.int8 for zero in zeros):
                yield (
                    label(joined),
                    f"int8 activations are concatenated before {layer.node.op_type} '{label(layer.node)}'",
                )


def _concatenation(view: View, name: str) -> onnx.NodeProto | None:
    """Return the Concat that a tensor comes from, through roundings and moves."""
    while (node := view.index.producer.get(name)) is not None:
        if node.op_type == "Concat":
            return node
        if node.op_type not in MOVES | {"QuantizeLinear", "DequantizeLinear"}:
            return None
        name = node.input[0]
    return None
