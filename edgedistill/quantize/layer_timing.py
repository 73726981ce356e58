"""How long a layer takes by itself, in float and in int8, which take turns like any two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgedistill.errors import EdgedistillError
from edgedistill.quantize.capture import CONVOLUTION, LINEAR, tensor_at
from edgedistill.quantize.prepare import calibrate, prepare
from edgedistill.quantize.ranking import NEGLIGIBLE, negligible
from edgedistill.quantize.settings import Int8Target
from edgedistill.quantize.timers import StudentForm, StudentTimer
from edgedistill.records.base import Scheme
from edgedistill.records.measurement import Measurement
from edgedistill.records.quantize_steps import LayerSensitivity
from edgedistill.statistics import speedup

FLOAT: Final = "fp32"
"""The precision of a layer in float, whichever float precision int8 students are compared with."""
UNTIMED: Final = f"not timed: it causes less than {NEGLIGIBLE:.0%} of the errors of all layers"
TimerFor = Callable[["dict[str, np.ndarray]"], StudentTimer]
"""Makes a timer from inputs (R, 1, ...) by name."""


class LayerAlone(nn.Module):
    """One layer of a captured graph; a convolution with what commonly follows it, a ReLU and a mean that reads it.

    A convolution whose result is the model's has no int8 result; this one has, as it has inside a network.
    """

    def __init__(self, graph: fx.GraphModule, layer: fx.Node) -> None:
        super().__init__()
        self.operator: Any = layer.target
        weight, bias = (tensor_at(graph, node) if isinstance(node, fx.Node) else None for node in _parameters(layer))
        assert weight is not None
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.rest = layer.args[3:]

    def forward(self, x: Tensor) -> Tensor:
        """Return a dense layer's result as it is, a convolution's averaged over all but its channels: (N, channels)."""
        y = cast("Tensor", self.operator(x, self.weight, self.bias, *self.rest))
        return y if self.operator in LINEAR else torch.relu(y).flatten(2).mean(-1)


def time_layers(
    graph: fx.GraphModule, layers: list[LayerSensitivity], target: Int8Target, scheme: Scheme, timer_for: TimerFor
) -> Iterator[LayerSensitivity]:
    """Yield the layers of a captured model with their latencies on a device; layers of one shape are measured once.

    Layers with negligible errors are not measured.
    """
    target = target.model_copy(update={"float_precision": FLOAT})
    nodes = {_path(node): node for node in graph.graph.nodes if node.target in CONVOLUTION | LINEAR}
    known: dict[str, dict[str, Any]] = {}
    untimed = negligible(layers)
    for one in layers:
        if one.layer in untimed:
            yield one.model_copy(update={"reason": UNTIMED})
            continue
        node = nodes[one.layer]
        shape = _shape(graph, node)
        if shape not in known:
            known[shape] = _measured(LayerAlone(graph, node).eval(), _example(node), target, scheme, timer_for)
        yield one.model_copy(update=known[shape])


def _example(layer: fx.Node) -> Tensor:
    size = cast("fx.Node", layer.args[0]).meta["val"].shape[1:]
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))


def _measured(
    alone: LayerAlone, example: Tensor, target: Int8Target, scheme: Scheme, timer_for: TimerFor
) -> dict[str, Any]:
    try:
        prepared = prepare(alone, (example,), scheme=scheme)
        calibrate(prepared, [(example,)])
        forms = StudentForm("float", alone, int8=False), StudentForm("int8", prepared, int8=True)
        slow, fast = timer_for({"input": example[None].numpy()}).measure(target, forms)
    except (EdgedistillError, RuntimeError) as error:
        return {"reason": f"not measured alone: {str(error).splitlines()[0]}"}
    float_us, found = _p50_us(slow), speedup(slow, fast)
    saved = None if found.ci95 is None else tuple(float_us * (1 - 1 / ratio) for ratio in found.ci95)
    return {
        "fp32_us": float_us, "int8_us": float_us / found.value, "saved_us_ci95": saved,
        "measured_on": f"{target.kit.name}, {target.device}",
    }  # fmt: skip


def _p50_us(one: Measurement) -> float:
    """Return the p50 where nothing disturbed the device, if it has such a mode."""
    mode = one.latency_ns.undisturbed
    return (one.latency_ns.p50 if mode is None else mode.p50) / 1000


def _shape(graph: fx.GraphModule, layer: fx.Node) -> str:
    """Return what decides a layer's latency, values apart."""
    weight, bias = _parameters(layer)
    entered = tuple(cast("fx.Node", layer.args[0]).meta["val"].shape[1:])
    return str([layer.target, entered, tuple(tensor_at(graph, weight).shape), bias is not None, layer.args[3:]])


def _parameters(layer: fx.Node) -> tuple[Any, Any]:
    return layer.args[1], layer.args[2] if len(layer.args) > 2 else None


def _path(layer: fx.Node) -> str:
    stored = str(cast("fx.Node", layer.args[1]).target)
    return stored.rpartition(".")[0] or stored
