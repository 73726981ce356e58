"""Encodings on hand-written models: other names than our exporter's, and every shape of layer that is rewritten."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgedistill.errors import ConfigError
from edgedistill.export.encodings import encode
from edgedistill.export.parity import run_onnx


class Writer:
    """Writes a canonical Q/DQ graph, one tensor after another."""

    def __init__(self):
        self.nodes, self.stored = [], {}

    def store(self, name, value):
        self.stored[name] = np.asarray(value)
        return name

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def rounded(self, tensor, scale):
        parts = [self.store(f"{tensor}/s", np.float32(scale)), self.store(f"{tensor}/z", np.int8(0))]
        integers = self.node("QuantizeLinear", [tensor, *parts], f"{tensor}/q")
        return self.node("DequantizeLinear", [integers, *parts], f"{tensor}/dq")

    def weight(self, name, value, scale, axis=0):
        parts = [
            self.store(name, value.astype(np.int8)),
            self.store(f"{name}/s", scale.astype(np.float32)),
            self.store(f"{name}/z", np.zeros(scale.shape, np.int8)),
        ]
        return self.node("DequantizeLinear", parts, f"{name}/dq", axis=axis)

    def model(self, output, shape, rank):
        values = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank),
        ]
        stored = [numpy_helper.from_array(value, name) for name, value in self.stored.items()]
        graph = helper.make_graph(self.nodes, "written by hand", values[:1], values[1:], stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def convolution(seed, activation, *, bias):
    """A convolution, an activation, a residual addition with ReLU, on (1, 3, 6, 6)."""
    rng, writer = np.random.default_rng(seed), Writer()
    x = writer.rounded("x", rng.uniform(0.005, 0.05))
    inputs = [x, writer.weight("w", rng.integers(-127, 128, (3, 3, 3, 3)), rng.uniform(1e-3, 1e-1, 3))]
    if bias:
        inputs.append(writer.store("b", rng.normal(size=3).astype(np.float32)))
    y = writer.node("Conv", inputs, "conv", pads=[1, 1, 1, 1])
    if activation == "Relu":
        y = writer.node("Relu", [y], "act")
    elif activation is not None:
        bounds = [writer.store(f"bound{i}", np.float32(bound)) for i, bound in enumerate(activation)]
        y = writer.node("Clip", [y, *bounds], "act")
    y = writer.rounded(y, rng.uniform(0.005, 0.5))
    y = writer.node("Relu", [writer.node("Add", [y, x], "sum")], "out")
    return writer.model(writer.rounded(y, rng.uniform(0.005, 0.5)), [1, 3, 6, 6], 4)


def inputs(seed):
    return {"x": np.random.default_rng(seed).normal(size=(8, 1, 3, 6, 6)).astype(np.float32) * 3}


def integers(model) -> dict:
    """Return the int8 weights by name."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        node.input[0]: stored[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and stored[node.input[0]].dtype == np.int8
    }


def with_all_activations(model) -> onnx.ModelProto:
    """Return a copy that also returns every dequantized activation."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = {tensor.name for tensor in copy.graph.initializer}
    known = {output.name for output in copy.graph.output}
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in stored and node.output[0] not in known:
            copy.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None))
    return copy


ACTIVATIONS = st.one_of(
    st.just("Relu"),
    st.none(),
    st.tuples(st.floats(-20, 0, width=32), st.floats(0, 20, width=32)),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), ACTIVATIONS)
def test_activations_and_weights_are_equal_on_every_element(seed, activation):
    model = convolution(seed, activation, bias=False)
    expected = run_onnx(with_all_activations(model).SerializeToString(), inputs(seed))
    for encoding in ("u8-i32", "s8-i32"):
        encoded = encode(model, encoding)
        onnx.checker.check_model(encoded, full_check=True)
        got = run_onnx(with_all_activations(encoded).SerializeToString(), inputs(seed))
        assert got.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(got[name], values)
        before, after = integers(model), integers(encoded)
        assert all(np.array_equal(before[name], after[name]) for name in before)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["u8-i32", "s8-i32"]))
def test_biases_are_within_half_a_step(seed, encoding):
    model = convolution(seed, "Relu", bias=True)
    encoded = encode(model, encoding)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in encoded.graph.initializer}
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producer = {name: node for node in encoded.graph.node for name in node.output}
    (layer,) = (node for node in encoded.graph.node if node.op_type == "Conv")
    dequantizer = producer[layer.input[2]]
    bias, step = (stored[name] for name in dequantizer.input)
    assert bias.dtype == np.int32
    np.testing.assert_allclose(step, before["x/s"] * before["w/s"], rtol=1e-6)
    error = np.abs(bias.astype(np.float64) * step - before["b"])
    assert (error <= step * 0.5 + 1e-12).all()
    assert "b" not in stored


def test_a_matmul_gets_the_bias_of_the_addition_behind_it():
    rng, writer = np.random.default_rng(0), Writer()
    x = writer.rounded("x", 0.02)
    weight = writer.weight("w", rng.integers(-127, 128, (6, 4)), rng.uniform(1e-3, 1e-2, 4), axis=1)
    product = writer.node("MatMul", [x, weight], "product")
    writer.store("b", rng.normal(size=4).astype(np.float32))
    model = writer.model(writer.node("Add", ["b", product], "y"), [1, 3, 6], 3)
    encoded = encode(model, "u8-i32")
    assert any(tensor.data_type == TensorProto.INT32 for tensor in encoded.graph.initializer)
    requests = {"x": rng.normal(size=(4, 1, 3, 6)).astype(np.float32)}
    expected, got = (run_onnx(m.SerializeToString(), requests)["y"] for m in (model, encoded))
    np.testing.assert_allclose(got, expected, atol=0.02 * 1e-2)


def test_an_activation_with_another_reader_is_left_alone():
    writer = Writer()
    x = writer.rounded("x", 0.02)
    weight = writer.weight("w", np.ones((3, 3, 1, 1)), np.full(3, 0.01))
    relu = writer.node("Relu", [writer.node("Conv", [x, weight], "conv")], "relu")
    model = writer.model(writer.node("Sub", [writer.rounded(relu, 0.01), relu], "y"), [1, 3, 6, 6], 4)
    encoded = encode(model, "u8-i32")
    assert "Relu" in {node.op_type for node in encoded.graph.node}
    expected, got = (run_onnx(m.SerializeToString(), inputs(0))["y"] for m in (model, encoded))
    np.testing.assert_array_equal(got, expected)


def test_constants_may_be_nodes():
    model = convolution(3, "Relu", bias=True)
    for tensor in list(model.graph.initializer):
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    expected, got = (
        run_onnx(encode(m, "u8-i32").SerializeToString(), inputs(3)) for m in (convolution(3, "Relu", bias=True), model)
    )
    np.testing.assert_array_equal(got["out/dq"], expected["out/dq"])


def test_the_canonical_encoding_is_a_copy():
    model = convolution(0, None, bias=True)
    copy = encode(model, "s8-f32")
    assert copy == model
    assert copy is not model


def test_a_bias_beyond_int32_is_refused_by_name():
    writer = Writer()
    x = writer.rounded("x", 1e-6)
    weight = writer.weight("w", np.ones((1, 3, 1, 1)), np.full(1, 1e-7))
    writer.store("b", np.full(1, 5e4, np.float32))
    model = writer.model(writer.node("Conv", [x, weight, "b"], "y", name="last"), [1, 3, 6, 6], 4)
    with pytest.raises(ConfigError, match="'last' has a bias of 50000 that int32 cannot hold"):
        encode(model, "u8-i32")


def float_model():
    writer = Writer()
    return writer.model(writer.node("Relu", ["x"], "y"), [1, 3], 2)


def asymmetric():
    model = convolution(0, None, bias=False)
    for tensor in model.graph.initializer:
        if tensor.name == "x/z":
            tensor.CopyFrom(numpy_helper.from_array(np.int8(3), "x/z"))
    return model


def weight_not_stored():
    model = convolution(0, None, bias=False)
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "w/float"))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["w/float", "w/s", "w/z"], ["w"], axis=0))
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (float_model, "has no QuantizeLinear"),
        (asymmetric, "is not of encoding s8-f32"),
        (weight_not_stored, "weights stored as int8"),
        (lambda: encode(convolution(0, None, bias=True), "u8-i32"), "is not of encoding s8-f32"),
    ],
)
def test_a_model_that_is_not_canonical_is_refused(model, reason):
    with pytest.raises(ConfigError, match=reason):
        encode(model(), "u8-i32")
