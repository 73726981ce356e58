"""Layer sensitivity: the error with one layer in int8 and the others in float, on validation data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from torch import fx, nn

from edgedistill.data.sources import Array
from edgedistill.quantize.capture import CONVOLUTION, LINEAR, tensor_at
from edgedistill.quantize.fake_quant import ActivationQuantizer, fake_quantize_bias, fake_quantize_weight
from edgedistill.quantize.fx_graph import CLIP
from edgedistill.quantize.placement import INT8
from edgedistill.quantize.prepare import Prepared
from edgedistill.records.quantize_steps import LayerSensitivity

Outputs = dict[str, Array]
"""All outputs (N, ...) of a model by name."""


def layer_sensitivity(
    prepared: Prepared, answers: Outputs, outputs: Callable[[nn.Module], Outputs], score: Callable[[Outputs], float]
) -> Iterator[LayerSensitivity]:
    """Yield each int8 layer with its error alone: the largest error of an output, and the drop of the metric.

    Layers are ranked by the error, because a metric counts whole samples, and most layers change no sample's answer.

    Args:
        prepared: a calibrated model.
        answers: the float model's outputs.
        outputs: returns a model's outputs on the same samples.
        score: returns the metric of outputs, a fraction.
    """
    best = score(answers)
    for layer in int8_layers(prepared):
        got = outputs(only_int8(prepared, layer))
        error = max(_error(got[name], answers[name]) for name in answers)
        weights = _weights(prepared, layer)
        yield LayerSensitivity(layer=layer, output_error=error, drop=100 * (best - score(got)), weights=weights)


def int8_layers(prepared: Prepared) -> list[str]:
    """Return the module paths of the layers in int8."""
    return [path for path, form in prepared.layers.items() if form == INT8]


def _weights(prepared: Prepared, layer: str) -> int:
    for node in prepared.graph.graph.nodes:
        if node.target in CONVOLUTION | LINEAR and weight_path(node) == layer:
            return tensor_at(prepared.graph, cast("fx.Node", cast("fx.Node", node.args[1]).args[0])).numel()
    raise KeyError(layer)


def _error(got: Array, answers: Array) -> float:
    """Return the mean squared error over the variance of the answers."""
    return float(np.mean((got.astype(np.float64) - answers) ** 2)) / (float(answers.var()) or 1.0)


def only_int8(prepared: Prepared, layer: str) -> Prepared:
    """Return a copy that rounds only one layer, its input and its result."""
    alone = copy.deepcopy(prepared)
    graph = alone.graph.graph
    kept: set[str] = set()
    for node in list(graph.nodes):
        if node.target in CONVOLUTION | LINEAR and weight_path(node) == layer:
            kept |= _quantizers_of(alone, node)
        elif node.target in (fake_quantize_weight, fake_quantize_bias) and _owner(node) != layer:
            node.replace_all_uses_with(cast("fx.Node", node.args[0]))
            graph.erase_node(node)
    for name, quantizer in alone.quantizers.items():
        quantizer.calibrated = name in kept
    alone.graph.recompile()
    return alone


def weight_path(layer: fx.Node) -> str | None:
    """Return the module path of a layer of a prepared graph whose weight is rounded, else None."""
    weight = layer.args[1]
    return _owner(weight) if isinstance(weight, fx.Node) and weight.target is fake_quantize_weight else None


def _owner(rounding: fx.Node) -> str:
    stored = str(cast("fx.Node", rounding.args[0]).target)
    return stored.rpartition(".")[0] or stored


def _quantizers_of(prepared: Prepared, layer: fx.Node) -> set[str]:
    """Return the names of the quantizers before a layer and its padding, and after the layer and its ReLU."""
    before = cast("fx.Node", layer.args[0])
    near = [before, *before.all_input_nodes, *layer.users]
    for reader in layer.users:
        near += list(reader.users) if reader.target in CLIP else []
    modules = prepared.graph.get_submodule
    names = {str(node.target) for node in near if node.op == "call_module"}
    return {f"graph.{name}" for name in names if isinstance(modules(name), ActivationQuantizer)}
