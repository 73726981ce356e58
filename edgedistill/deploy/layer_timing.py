"""How long a layer takes by itself, in float and in int8, measured by a kit like any model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from torch import Tensor, fx, nn

from edgedistill.deploy.identity import form_on
from edgedistill.deploy.onnx_file import BenchOptions, bench_onnx, prepare_onnx
from edgedistill.errors import EdgedistillError
from edgedistill.export.onnx_export import export_onnx, save_onnx
from edgedistill.graphs.encodings import encode
from edgedistill.kits.kits import Kit
from edgedistill.quantize.capture import CONVOLUTION, LINEAR, tensor_at
from edgedistill.quantize.prepare import calibrate, prepare
from edgedistill.quantize.settings import Int8Target
from edgedistill.records.base import Scheme
from edgedistill.records.stages import LayerSensitivity

OPTIONS = BenchOptions(processes=1, seconds=0.3, passes=())


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
    graph: fx.GraphModule, layers: list[LayerSensitivity], target: Int8Target, scheme: Scheme
) -> Iterator[LayerSensitivity]:
    """Yield the layers of a captured model with their latencies on a device; layers of one shape are measured once."""
    kit = target.kit
    options = OPTIONS.model_copy(update={"device": target.device, "threads": target.threads})
    nodes = {_path(node): node for node in graph.graph.nodes if node.target in CONVOLUTION | LINEAR}
    known: dict[str, dict[str, Any]] = {}
    for one in layers:
        node = nodes[one.layer]
        shape = _shape(graph, node)
        if shape not in known:
            known[shape] = _measured(LayerAlone(graph, node).eval(), _example(node), kit, scheme, options)
        yield one.model_copy(update=known[shape])


def _example(layer: fx.Node) -> Tensor:
    size = cast("fx.Node", layer.args[0]).meta["val"].shape[1:]
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))


def _measured(alone: LayerAlone, example: Tensor, kit: Kit, scheme: Scheme, options: BenchOptions) -> dict[str, Any]:
    try:
        form = form_on(kit, options.device)
        prepared = prepare(alone, (example,), scheme=scheme)
        calibrate(prepared, [(example,)])
        fp32 = export_onnx(alone, (example,), form.opset)
        int8 = encode(export_onnx(prepared, (example,), form.opset), form.encoding)
        latencies = [_p50_us(model, kit, options) for model in (fp32, int8)]
    except (EdgedistillError, RuntimeError) as error:
        return {"reason": f"not measured alone: {str(error).splitlines()[0]}"}
    return {"fp32_us": latencies[0], "int8_us": latencies[1], "measured_on": f"{kit.name}, {options.device}"}


def _p50_us(model: onnx.ModelProto, kit: Kit, options: BenchOptions) -> float | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        save_onnx(model, path)
        measured = bench_onnx(prepare_onnx(path, Path(folder) / "onnx", {}), kit, options, Path(folder), lambda _: None)
    p50 = measured.latency_ns.p50
    return None if p50 is None else p50 / 1000


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
