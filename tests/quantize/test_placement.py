"""The placement on described graphs, and what ONNX Runtime makes of it behind dense layers."""

import itertools

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgedistill.export.lint.report import lint
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.index import name_nodes
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from edgedistill.kits.kits import find_kits
from edgedistill.quantize.capture import capture
from edgedistill.quantize.fx_graph import graph_of
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.quantize.onnx_graph import OnnxGraph
from edgedistill.quantize.placement import Graph, Operation, OperationKind, place
from edgedistill.quantize.prepare import calibrate, prepare
from tests.support.kernels import kernels_of


def operation(name: str, kind: OperationKind, *inputs: str, **facts: object) -> Operation:
    layer = name if kind in {OperationKind.CONVOLUTION, OperationKind.DENSE} else None
    return Operation(name, kind, inputs, **{"shape": (1, 8), "layer": layer, **facts})


def graph(*operations: Operation, returned: str = "y") -> Graph:
    return Graph((Operation("x", shape=(1, 8)), *operations), (returned,))


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        (OperationKind.CLIP, "b"), (OperationKind.GATE, "a"), (OperationKind.ACTIVATION, "a"), (OperationKind.SMOOTH, None), (OperationKind.RESHAPE, None),
    ],
)  # fmt: skip
def test_a_dense_layer_s_result_is_rounded_where_an_activation_would_join_the_layer(kind, result):
    made = place(
        graph(
            operation("a", OperationKind.DENSE, "x"),
            operation("b", kind, "a"),
            operation("y", OperationKind.CONCAT, "b"),
        ),
        (),
    )
    assert list(made.results) == ([] if result is None else [result])
    assert made.edges == [("a", 0)]


@pytest.mark.parametrize(("kind", "results"), [(OperationKind.CONVOLUTION, ["a"]), (OperationKind.DENSE, [])])
def test_where_the_model_returns_a_clipped_tensor_the_result_of_a_convolution_is_rounded_before_it(kind, results):
    made = place(graph(operation("a", kind, "x"), operation("y", OperationKind.CLIP, "a")), ())
    assert list(made.results) == results
    assert list(place(graph(operation("y", kind, "x")), ()).results) == []


def test_scales_are_shared_through_moves_and_the_residual_of_a_moved_result_is_rounded():
    made = place(
        graph(
            operation("a", OperationKind.CONVOLUTION, "x"), operation("m", OperationKind.MOVE, "a"), operation("s", OperationKind.ADD, "m", "x"),
            operation("r", OperationKind.RESHAPE, "s"), operation("y", OperationKind.DENSE, "r"),
        ),
        (),
    )  # fmt: skip
    assert made.origins == {"a": "a", "s": "s", "x": "x", "m": "a", "r": "s"}
    assert made.edges == [("a", 0), ("s", 0), ("s", 1), ("y", 0)]


def test_placing_is_linear_in_a_deep_chain():
    names = ["x", *(f"n{number}" for number in range(20000)), "y"]
    kinds = itertools.cycle([OperationKind.CONVOLUTION, OperationKind.CLIP, OperationKind.MOVE, OperationKind.RESHAPE])
    chain = graph(
        *(operation(name, kind, before) for before, name, kind in zip(names[:-1], names[1:], kinds, strict=False))
    )
    assert len(place(chain, ()).layers) == 5001
    assert len(chain.never_negative()) == 0


ACTIVATIONS = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid,
    "leaky": nn.LeakyReLU, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU, "hardswish": nn.Hardswish,
}  # fmt: skip


EACH_ACTIVATION = [
    pytest.param(name, marks=() if name in {"relu", "tanh"} else pytest.mark.slow) for name in ACTIVATIONS
]


class Joined(nn.Module):
    """A dense layer with an activation, its result joined to a float tensor in front of a head, or returned."""

    def __init__(self, activation, *, joined):
        super().__init__()
        self.first, self.activation = nn.Linear(16, 8), activation()
        self.head = nn.Linear(24, 4) if joined else None

    def forward(self, x):
        result = self.activation(self.first(x))
        return result if self.head is None else self.head(torch.cat([2 * x, result], -1))


@pytest.mark.parametrize("name", EACH_ACTIVATION)
@pytest.mark.parametrize(
    "shape", [pytest.param((1, 16), id="rows"), pytest.param((1, 5, 16), id="sequences", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "joined", [pytest.param(True, id="joined"), pytest.param(False, id="returned", marks=pytest.mark.slow)]
)
def test_onnx_runtime_runs_a_dense_layer_with_any_activation_in_integers(name, shape, joined, tmp_path):
    torch.manual_seed(0)
    model, inputs = Joined(ACTIVATIONS[name], joined=joined).eval(), torch.randn(64, *shape[1:])
    prepared = prepare(model, (inputs,))
    calibrate(prepared, [(inputs,)])
    from_torch = export_onnx(prepared, (inputs[:1],), 17)
    float_file = export_onnx(model, (inputs[:1],), 17)
    name_nodes(float_file.graph)
    from_file, _ = quantize_onnx(float_file, {float_file.graph.input[0].name: inputs[:, None].numpy()})
    wanted = model(inputs).detach().numpy()[:, None]
    for made in (from_torch, from_file):
        encoded = encode(made, "u8-i32")
        assert [finding.rule for finding in lint(encoded, find_kits()["ort"]).findings] == []
        assert kernels_of(encoded, tmp_path)["QGemm"] == 1 + joined
        (got,) = run_onnx(serialized(encoded), {encoded.graph.input[0].name: inputs[:, None].numpy()}).values()
        assert np.square(got - wanted).mean() < 1e-3 * np.square(wanted).mean()
        zeros = [
            node.input[2]
            for node in encoded.graph.node
            if node.op_type == "DequantizeLinear" and "weight" in node.input[0] and len(node.input) > 2
        ]
        assert len(zeros) == len(set(zeros)) == 1 + joined


@pytest.mark.parametrize("name", EACH_ACTIVATION)
def test_torch_s_graph_and_its_file_are_placed_alike(name):
    model, inputs = Joined(ACTIVATIONS[name], joined=True).eval(), torch.randn(2, 16)
    captured = place(graph_of(capture(model, (inputs,)).graph), ())
    file = export_onnx(model, (inputs[:1],), 17)
    name_nodes(file.graph)
    read = place(OnnxGraph(file).graph, ())
    assert len(captured.edges) == len(read.edges) == 2
    assert len(captured.results) == len(read.results)


class SqueezeExcite(nn.Module):
    """EfficientNet's: SiLU between the two layers of the gate."""

    def __init__(self):
        super().__init__()
        self.stem, self.reduce, self.expand, self.last = (
            nn.Conv2d(*sizes, 1) for sizes in [(3, 8), (8, 2), (2, 8), (8, 4)]
        )

    def forward(self, x):
        x = self.stem(x)
        gate = torch.sigmoid(self.expand(nn.functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return self.last(x * gate)


def test_squeeze_excite_with_silu_stays_float_from_torch_and_from_a_file():
    model, inputs = SqueezeExcite().eval(), torch.randn(2, 3, 6, 6)
    forms = list(prepare(model, (inputs,)).layers.values())
    file = onnx.ModelProto()
    file.CopyFrom(export_onnx(model, (inputs[:1],), 17))
    name_nodes(file.graph)
    assert list(place(OnnxGraph(file).graph, ()).report.values()) == forms
    assert forms == ["int8", "float: squeeze-excite", "float: squeeze-excite", "int8"]
