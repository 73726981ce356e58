"""A clean int8 model as we export it, the kits that it is linted for, and faults to plant in it."""

from functools import cache

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.index import Index, Names, set_axis
from edgedistill.kits.kits import Kit, find_kits
from edgedistill.models.depthwise import ds_cnn
from edgedistill.models.resnet import mlperf_resnet8
from edgedistill.models.sequence import cnn1d
from edgedistill.quantize.prepare import calibrate, prepare


def kit(name: str) -> Kit:
    """Return a kit of the project."""
    return find_kits()[name]


class Net(nn.Module):
    """A stem, a residual block, a depthwise convolution, a product over tokens, a dense layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.tokens = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.depthwise(torch.relu(x + self.block(x))))
        x = self.tokens(x.flatten(2).transpose(1, 2))
        return self.head(x.mean(1))


@cache
def _exported(opset: int) -> onnx.ModelProto:
    torch.manual_seed(0)
    model, inputs = Net(), torch.randn(16, 3, 8, 8)
    model(inputs)
    prepared = prepare(model.eval(), (inputs,))
    calibrate(prepared, [(inputs,)])
    return export_onnx(prepared, (inputs[:1],), opset)


def clean(opset: int = 18) -> onnx.ModelProto:
    """Return a new copy of the model in encoding s8-f32."""
    result = onnx.ModelProto()
    result.CopyFrom(_exported(opset))
    return result


ZOO = {"mlperf-resnet8": (mlperf_resnet8, (3, 32, 32)), "ds-cnn": (ds_cnn, (1, 49, 10)), "cnn1d": (cnn1d, (1, 128))}


@cache
def zoo(name: str) -> onnx.ModelProto:
    """Return an untrained model of the zoo in encoding s8-f32; read it only."""
    torch.manual_seed(0)
    build, shape = ZOO[name]
    model, inputs = build(10, shape[0], 1.0, 1.0), torch.randn(4, *shape)
    model(inputs)
    prepared = prepare(model.eval(), (inputs,))
    calibrate(prepared, [(inputs,)])
    return export_onnx(prepared, (inputs[:1],), 18)


class Plant:
    """Changes to a model, by look-ups as in a graph editor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph

    @property
    def index(self) -> Index:
        return Index.of(self.graph)

    def node(self, kind: str, place: int = 0) -> onnx.NodeProto:
        return [node for node in self.graph.node if node.op_type == kind][place]

    def weight(self, kind: str = "Conv", place: int = 0) -> onnx.NodeProto:
        """Return the DequantizeLinear of a layer's weight."""
        return self.index.producer[self.node(kind, place).input[1]]

    def value(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.index.stored[name]).copy()

    def store(self, name: str, value: np.ndarray) -> str:
        unique = Names.of(self.graph).new(name)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), unique))
        return unique

    def insert(self, node: onnx.NodeProto, before: onnx.NodeProto) -> None:
        self.graph.node.insert(list(self.graph.node).index(before), node)

    def between(self, kind: str, layer: onnx.NodeProto, extra: tuple[str, ...] = (), **attributes) -> None:
        """Put an operator in front of a layer's data input."""
        self.insert(helper.make_node(kind, [layer.input[0], *extra], ["planted"], name="planted", **attributes), layer)
        layer.input[0] = "planted"

    def quantizer_before(self, layer: onnx.NodeProto) -> onnx.NodeProto:
        return self.index.producer[self.index.producer[layer.input[0]].input[0]]

    def round(self, name: str, scale: np.ndarray, zero: np.ndarray, axis: int | None = None) -> str:
        """Append a rounding of a tensor right behind what makes it, and return the restored tensor's name."""
        names = [self.store("planted_scale", scale), self.store("planted_zero", zero)]
        pair = [
            helper.make_node("QuantizeLinear", [name, *names], ["planted_q"], name="planted_q"),
            helper.make_node("DequantizeLinear", ["planted_q", *names], ["planted_d"], name="planted_d"),
        ]
        made = self.index.producer.get(name)
        at = 0 if made is None else list(self.graph.node).index(made) + 1
        for node in reversed(pair):
            set_axis(node, axis)
            self.graph.node.insert(at, node)
        return "planted_d"
