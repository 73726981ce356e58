"""Convert a prepared model to its deployed form: int8 weights, and rounding operators for the ONNX exporter."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, fx, nn

from edgedistill.errors import ConfigError
from edgedistill.graphs.rounding import quantized_weight
from edgedistill.quantize.capture import outputs_of, tensor_at
from edgedistill.quantize.fake_quant import fake_quantize, fake_quantize_bias, fake_quantize_weight
from edgedistill.quantize.prepare import Prepared

M = TypeVar("M", bound=nn.Module)


@torch.library.custom_op("edgedistill::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, unsigned: bool) -> Tensor:  # noqa: FBT001 - an operator's signature
    """Round x to int8 or uint8 steps of a scalar `scale`, as QuantizeLinear and DequantizeLinear do."""
    return fake_quantize(x, scale, unsigned=unsigned)


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, unsigned: bool) -> Tensor:  # noqa: ARG001, FBT001 - the operator's signature
    return torch.empty_like(x)


@torch.library.custom_op("edgedistill::dequantize_weight", mutates_args=())
def dequantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Return an int8 weight as float, with a scale for each output channel (axis 0)."""
    return weight.to(scale.dtype) * scale.reshape(-1, *[1] * (weight.dim() - 1))


@dequantize_weight.register_fake
def _(weight: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(weight, dtype=scale.dtype)


class QuantizeDequantize(nn.Module):
    """Rounds a tensor to int8 or uint8 steps of a fixed scale."""

    def __init__(self, scale: Tensor, *, unsigned: bool) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.unsigned = unsigned

    def forward(self, x: Tensor) -> Tensor:
        """Return x, of any shape, rounded."""
        return cast("Tensor", quantize_dequantize(x, self.scale, self.unsigned))


def convert(model: M) -> M | nn.Module:
    """Return a copy of a module in which each prepared model, at any depth, is in its deployed form.

    The deployed form has the same inputs and outputs as the prepared model.

    Raises:
        ConfigError: a prepared model is not calibrated.
    """
    model = copy.deepcopy(model).eval()
    if isinstance(model, Prepared):
        return _converted(model)
    for path, module in list(model.named_modules()):
        if isinstance(module, Prepared):
            model.set_submodule(path, _converted(module))
    return model


def _converted(prepared: Prepared) -> nn.Module:
    if not prepared.calibrated:
        raise ConfigError("the prepared model is not calibrated: call calibrate() with real inputs first")
    for name, quantizer in prepared.quantizers.items():
        fixed = QuantizeDequantize(quantizer.step.detach().clone(), unsigned=quantizer.unsigned)
        prepared.set_submodule(name, fixed)
    graph = prepared.graph
    for node in list(graph.graph.nodes):
        if node.target is fake_quantize_bias:
            _store_rounded(graph, node)
    for node in list(graph.graph.nodes):
        if node.target is fake_quantize_weight:
            _store_int8(graph, node)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    if isinstance(output.args[0], tuple):
        output.args = (outputs_of(graph).restored(output.args[0]),)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return fx.GraphModule(graph, graph.graph)


def _store_int8(graph: fx.GraphModule, rounding: fx.Node) -> None:
    """Replace the rounding of a float weight with an int8 weight and its scales."""
    source = cast("fx.Node", rounding.args[0])
    weight, scale = quantized_weight(tensor_at(graph, source), narrow=bool(rounding.kwargs["narrow"]))
    owner, _, name = str(source.target).rpartition(".")
    module, prefix = graph.get_submodule(owner), f"{owner}." if owner else ""
    module.register_buffer(f"{name}_int8", weight)
    module.register_buffer(f"{name}_scale", scale)
    with graph.graph.inserting_before(rounding):
        stored = [graph.graph.get_attr(f"{prefix}{name}_{part}") for part in ("int8", "scale")]
        restored = graph.graph.call_function(torch.ops.edgedistill.dequantize_weight.default, tuple(stored))
    rounding.replace_all_uses_with(restored)
    graph.graph.erase_node(rounding)


def _store_rounded(graph: fx.GraphModule, rounding: fx.Node) -> None:
    """Replace the rounding of a bias with the rounded bias; a layer that is called twice gets one for each call."""
    bias, weight, scale = (tensor_at(graph, cast("fx.Node", argument)) for argument in rounding.args)
    narrow = bool(rounding.kwargs["narrow"])
    owner, _, name = str(cast("fx.Node", rounding.args[0]).target).rpartition(".")
    module, prefix = graph.get_submodule(owner), f"{owner}." if owner else ""
    taken = {stored for stored, _ in module.named_buffers(recurse=False)}
    unique = next(
        f"{name}_rounded{count}" for count in ("", *range(len(taken))) if f"{name}_rounded{count}" not in taken
    )
    module.register_buffer(unique, fake_quantize_bias(bias, weight, scale, narrow=narrow))
    with graph.graph.inserting_before(rounding):
        rounding.replace_all_uses_with(graph.graph.get_attr(f"{prefix}{unique}"))
    graph.graph.erase_node(rounding)
