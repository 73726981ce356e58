"""Prepare a float model for int8: insert quantizers and calibrate them; any training loop can then train the model.

prepare → calibrate (→ train) → `edgedistill.quantize.convert`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from edgedistill.errors import ConfigError
from edgedistill.quantize.capture import capture, outputs_of, takes_batches, tensor_at
from edgedistill.quantize.fake_quant import ActivationQuantizer, fake_quantize_bias, fake_quantize_weight
from edgedistill.quantize.fx_graph import graph_of
from edgedistill.quantize.placement import Graph, Placement, place
from edgedistill.records.base import Activations, Ranges, Scheme

SIGNED = Scheme()


class Prepared(nn.Module):
    """A captured model with quantizers; `layers` maps each weighted layer to "int8" or "float: reason".

    Weights are rounded from the start, activations after calibration. The state_dict has weights, biases and scales.
    Their names are the same for every capture of one architecture, so `prepare` and load_state_dict restore the model.
    """

    def __init__(self, graph: fx.GraphModule, layers: dict[str, str]) -> None:
        super().__init__()
        self.graph = graph
        self.layers = layers
        self._takes_batches, self._outputs = takes_batches(graph), outputs_of(graph)

    def forward(self, *inputs: Tensor) -> Any:
        """Return the outputs in the float model's form (a tensor, tuple or dict), for any batch size."""
        if self._takes_batches or len(inputs[0]) == 1:
            return self._outputs.restored(self._tensors(inputs))
        samples = [self._tensors(sample) for sample in zip(*(torch.split(one, 1) for one in inputs), strict=True)]
        return self._outputs.restored([torch.cat(parts) for parts in zip(*samples, strict=True)])

    def _tensors(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = self.graph(*inputs)
        return found if isinstance(found, tuple) else (found,)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs: the keys of a dict, else "logits" or "output_0", "output_1", ..."""
        return self._outputs.names

    @property
    def quantizers(self) -> dict[str, ActivationQuantizer]:
        """The activation quantizers by name."""
        return {name: module for name, module in self.named_modules() if isinstance(module, ActivationQuantizer)}

    @property
    def calibrated(self) -> bool:
        """Whether every activation has its scale."""
        return all(quantizer.calibrated for quantizer in self.quantizers.values())


def prepare(
    model: nn.Module, examples: tuple[Tensor, ...], skip: tuple[str, ...] = (), scheme: Scheme = SIGNED
) -> Prepared:
    """Return a copy of a float model with fake quantization, which computes like the int8 model.

    Args:
        model: a float model; it is not changed.
        examples: one tensor (N, ...) for each positional input.
        skip: paths of modules whose layers stay float.
        scheme: signed or unsigned activations, full or narrow weights.

    Raises:
        ConfigError: the model cannot be captured, or a path in `skip` contains no layer.
    """
    graph = capture(model, examples)
    described, nodes = graph_of(graph.graph), {node.name: node for node in graph.graph.nodes}
    placement = place(described, skip)
    _quantize_activations(graph, described, placement, scheme.activations)
    for layer in placement.layers:
        narrow = scheme.weights == "narrow" and not _is_depthwise(graph, nodes[layer])
        _quantize_parameters(graph.graph, nodes[layer], narrow=narrow)
    graph.graph.lint()
    graph.recompile()
    for parameter in graph.parameters():
        parameter.requires_grad_(True)  # noqa: FBT003 - torch's signature
    return Prepared(graph, placement.report)


@torch.no_grad()
def calibrate(prepared: Prepared, batches: Iterable[tuple[Tensor, ...]], ranges: Ranges = "mse") -> int:
    """Set the activation scales from the model's activations on real inputs, and return the number of samples.

    A batch has one tensor (N, ...) for each input. "mse" sets the range with the least squared error for each tensor;
    "minmax" sets the largest magnitude.

    Raises:
        ConfigError: there is no sample, or an activation is not finite.
    """
    quantizers = prepared.quantizers.values()
    for quantizer in quantizers:
        quantizer.observe()
    samples = 0
    for batch in batches:
        if len(batch[0]) > 0:
            prepared(*batch)
            samples += len(batch[0])
    if samples == 0:
        raise ConfigError("calibration needs at least one sample: activation ranges are measured on real inputs")
    for quantizer in quantizers:
        quantizer.settle(ranges)
    return samples


def layer_report(prepared: Prepared) -> dict[str, str]:
    """Return for each weighted layer, by module path, "int8" or "float: reason"."""
    return dict(prepared.layers)


def _is_depthwise(graph: fx.GraphModule, layer: fx.Node) -> bool:
    """Return whether a layer is a convolution of each channel alone; kernels add no pairs of its products in 16 bits."""
    groups = layer.args[6] if len(layer.args) > 6 else 1
    return bool(groups != 1 and tensor_at(graph, cast("fx.Node", layer.args[1])).shape[1] == 1)


def _quantize_parameters(graph: fx.Graph, layer: fx.Node, *, narrow: bool) -> None:
    """Round a layer's weight, and round its bias in steps of input scale times weight scale."""
    tensor, weight, *rest = layer.args
    quantized = cast("fx.Node", tensor)
    if quantized.op != "call_module":
        quantized = cast("fx.Node", quantized.args[0])  # padding is between the quantizer and the layer
    with graph.inserting_before(layer):
        layer.update_arg(1, graph.call_function(fake_quantize_weight, (weight,), {"narrow": narrow}))
        if rest and rest[0] is not None:
            scale = graph.get_attr(f"{quantized.target}.scale")
            layer.update_arg(2, graph.call_function(fake_quantize_bias, (rest[0], weight, scale), {"narrow": narrow}))


def _quantize_activations(
    graph: fx.GraphModule, described: Graph, placement: Placement, activations: Activations
) -> None:
    """Insert the quantizers; tensors with the same values share one."""
    nodes = {node.name: node for node in graph.graph.nodes}
    unsigned = described.never_negative() if activations == "unsigned" else frozenset()
    names: dict[str, str] = {}
    calls: dict[str, fx.Node] = {}

    def call(tensor: str) -> fx.Node:
        if tensor not in calls:
            origin = placement.origins[tensor]
            if origin not in names:
                # Numbered, because torch's tensor names differ between versions, and the names are in the checkpoint.
                names[origin] = f"activations.{len(names)}"
                quantizer = ActivationQuantizer(described.floor(origin), unsigned=origin in unsigned)
                graph.add_submodule(names[origin], quantizer)
            with graph.graph.inserting_after(nodes[tensor]):
                calls[tensor] = graph.graph.call_module(names[origin], (nodes[tensor],))
        return calls[tensor]

    for reader, index in placement.edges:
        tensor = described.operations[reader].inputs[index]
        if tensor not in placement.results:
            holder, place_ = _padded(nodes[reader], index, tensor)
            holder.update_arg(place_, call(tensor))
    for result in placement.results:
        readers = list(nodes[result].users)
        quantized = call(result)
        for reader in readers:
            reader.replace_input_with(nodes[result], quantized)


def _padded(reader: fx.Node, index: int, tensor: str) -> tuple[fx.Node, int]:
    """Return the node that reads a tensor, and the argument index: the layer itself, or the padding before it."""
    argument = cast("fx.Node", reader.args[index])
    return (reader, index) if argument.name == tensor else (argument, 0)
