"""Narrow weights: no sum of two 8-bit products overflows 16 bits, in whatever way a program opens the file."""

import numpy as np
import onnx
import onnxruntime
import openvino
import pair_sums
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgedistill.graphs.encodings import encode
from edgedistill.graphs.metadata import metadata_of
from edgedistill.graphs.pair_sums import MARK
from edgedistill.graphs.rounding import largest_pair, quantized_weight
from edgedistill.graphs.run import run_onnx
from edgedistill.quantize.convert import convert
from edgedistill.quantize.fake_quant import fake_quantize_weight
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.quantize.prepare import calibrate, prepare
from edgedistill.records.base import Scheme

RNG = np.random.default_rng(0)
NARROW = Scheme(activations="unsigned", weights="narrow")


def network() -> onnx.ModelProto:
    """Two convolutions, one with an odd number of input channels, a depthwise one and a dense layer of equal weights."""
    shapes = {"w1": (16, 3, 3, 3), "w2": (8, 16, 1, 1), "w3": (8, 1, 3, 3), "w4": (4, 8)}
    weights = [numpy_helper.from_array(np.full(shape, 0.1, np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1"), helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2"), helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], "conv3", group=8), helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("ReduceMean", ["r3"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "w4"], ["y"], "dense", transB=1),
    ]  # fmt: skip
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_a_file_with_narrow_weights_gives_exact_answers_in_both_engines_as_any_program_opens_them() -> None:
    requests = {"x": RNG.uniform(0.5, 1, (16, 1, 3, 8, 8)).astype(np.float32)}
    expected = run_onnx(network().SerializeToString(), requests)["y"]
    for scheme, overflows in ((NARROW, False), (Scheme(activations="unsigned"), pair_sums.overflows())):
        model, _ = quantize_onnx(network(), requests, scheme=scheme)
        zeros = [numpy_helper.to_array(one) for one in model.graph.initializer if one.name.startswith("zero_point")]
        assert [zero.dtype for zero in zeros] == [np.uint8], "the input is never negative"
        encoded = encode(model, "u8-i32")
        assert metadata_of(encoded) == (MARK if scheme == NARROW else {})
        content = encoded.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        compiled = openvino.Core().compile_model(openvino.Core().read_model(content), "CPU")
        for call in (lambda x, s=session: s.run(None, {"x": x})[0], lambda x, c=compiled: c(x)[0]):
            got = np.stack([call(x) for x in requests["x"]])
            error = float(np.abs(got - expected).max() / np.abs(expected).max())
            assert (error > 0.05) == overflows, error


def test_only_channels_with_a_large_pair_get_a_larger_scale() -> None:
    weight = torch.zeros(3, 4, 1, 1)
    weight[0, :2, 0, 0] = torch.tensor([1.0, 1.0])  # neighbours of one sign
    weight[1, :2, 0, 0] = torch.tensor([1.0, -1.0])
    weight[2, 1:3, 0, 0] = torch.tensor([1.0, 1.0])  # neighbours, but not a pair
    assert largest_pair(weight).tolist() == [2, 1, 1]
    assert torch.allclose(quantized_weight(weight, narrow=True)[1] * 127, torch.tensor([2.0, 1.0, 1.0]))
    odd = torch.zeros(1, 3, 1, 2)
    odd[0, 2, 0, 0] = odd[0, 0, 0, 1] = (
        1.0  # a pair in ONNX Runtime: the last channel of a position and the next position
    )
    assert largest_pair(odd).tolist() == [2]


def test_a_prepared_model_is_trained_and_stored_with_the_same_narrow_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()).eval()
    inputs = torch.randn(8, 4, 8, 8)
    prepared = prepare(model, (inputs,), scheme=NARROW)
    calibrate(prepared, [(inputs,)])
    roundings = [node for node in prepared.graph.graph.nodes if node.target is fake_quantize_weight]
    assert [node.kwargs["narrow"] for node in roundings] == [True, False], "a depthwise convolution adds no pairs"
    with torch.no_grad():
        assert torch.allclose(convert(prepared)(inputs), prepared.eval()(inputs), atol=1e-5)


@pytest.mark.parametrize("kind", ["Convolution", "MatMul"])
def test_openvino_compiles_full_weights_narrow_only_where_pairs_overflow(kind: str) -> None:
    scheme = Scheme(activations="unsigned")
    model, _ = quantize_onnx(network(), {"x": np.ones((2, 1, 3, 8, 8), np.float32)}, scheme=scheme)
    converted = openvino.Core().read_model(model.SerializeToString())
    assert pair_sums.narrow(converted) == 3, "all but the depthwise convolution"
    (weight,) = {
        int(np.abs(node.get_data()).max())
        for node in converted.get_ops()
        if node.get_type_name() == "Constant" and node.get_output_element_type(0) == openvino.Type.i8
        and len(node.get_output_shape(0)) == {"Convolution": 4, "MatMul": 2}[kind] and node.get_output_shape(0)[1] > 1
    }  # fmt: skip
    assert weight == 64
