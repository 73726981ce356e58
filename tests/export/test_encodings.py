"""Encodings on hand-written models: other names than our exporter's, and every shape of layer that is rewritten."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from edgedistill.errors import ConfigError
from edgedistill.graphs.encodings import activations_of, encode
from edgedistill.graphs.float16 import emulated, float32_nodes
from edgedistill.graphs.run import run_onnx
from tests.support.small_onnx import text_model


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

    def rounded(self, tensor, scale, kind=np.int8):
        parts = [self.store(f"{tensor}/s", np.float32(scale)), self.store(f"{tensor}/z", kind(0))]
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


def convolution(seed, activation, *, bias, unsigned=False):
    """A convolution, an activation, a residual addition with ReLU, on (1, 3, 6, 6); unsigned behind what is never negative."""
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
    kinds = [
        np.uint8 if unsigned and (one == "Relu" or (one and one[0] >= 0)) else np.int8 for one in (activation, "Relu")
    ]
    y = writer.rounded(y, rng.uniform(0.005, 0.5), kinds[0])
    y = writer.node("Relu", [writer.node("Add", [y, x], "sum")], "out")
    return writer.model(writer.rounded(y, rng.uniform(0.005, 0.5), kinds[1]), [1, 3, 6, 6], 4)


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
    for encoding in ("u8-f32", "u8-i32", "s8-i32"):
        encoded = encode(model, encoding)
        onnx.checker.check_model(encoded, full_check=True)
        got = run_onnx(with_all_activations(encoded).SerializeToString(), inputs(seed))
        assert got.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(got[name], values)
        before, after = integers(model), integers(encoded)
        assert all(np.array_equal(before[name], after[name]) for name in before)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.one_of(ACTIVATIONS, st.tuples(st.just(0.0), st.floats(0, 20, width=32))))
def test_unsigned_activations_are_equal_on_every_element_and_signed_encodings_refuse_them(seed, activation):
    model = convolution(seed, activation, bias=False, unsigned=True)
    expected = run_onnx(with_all_activations(model).SerializeToString(), inputs(seed))
    assert encode(model, "u8-f32") == model
    encoded = encode(model, "u8-i32")
    onnx.checker.check_model(encoded, full_check=True)
    got = run_onnx(with_all_activations(encoded).SerializeToString(), inputs(seed))
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values)
    assert "Relu" not in {node.op_type for node in encoded.graph.node}
    types = {tensor.name: tensor.data_type for tensor in encoded.graph.initializer}
    roundings = [node for node in encoded.graph.node if node.op_type == "QuantizeLinear"]
    assert {types[node.input[2]] for node in roundings} == {TensorProto.UINT8}
    assert activations_of(model) == "unsigned"
    for encoding in ("s8-f32", "s8-i32", "s8-f16"):
        with pytest.raises(ConfigError, match=f"encoding {encoding} needs signed ones: quantize the model with activ"):
            encode(model, encoding)


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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(["nearest", "linear", None]))
def test_what_is_never_negative_is_unsigned_as_far_as_it_is_carried(seed, alike, enlarged):
    rng, writer = np.random.default_rng(seed), Writer()
    x = writer.rounded("x", 0.02)
    weights = rng.integers(-127, 128, (3, 3, 3, 3))
    y = writer.node("Conv", [x, writer.weight("w", weights, rng.uniform(1e-3, 1e-1, 3))], "conv", pads=[1, 1, 1, 1])
    step = rng.uniform(0.005, 0.05)
    y = writer.rounded(writer.node("Relu", [y], "act"), step)
    if enlarged is None:
        y = writer.node("MaxPool", [y], "carried", kernel_shape=[2, 2], strides=[2, 2])
    else:
        scales = writer.store("scales", np.array([1, 1, 2, 1.5], np.float32))
        y = writer.node("Resize", [y, "", scales], "carried", mode=enlarged)
    model = writer.model(writer.rounded(y, step if alike else step / 2), [1, 3, 6, 6], 4)
    encoded = encode(model, "u8-f32")
    onnx.checker.check_model(encoded, full_check=True)
    stored = {t.name: numpy_helper.to_array(t) for t in encoded.graph.initializer}
    types = {n.output[0]: stored[n.input[2]].dtype.name for n in encoded.graph.node if n.op_type == "QuantizeLinear"}
    carried = "uint8" if alike and enlarged != "linear" else "int8"
    assert types == {"x/q": "int8", "act/q": "uint8", "carried/q": carried}
    expected, got = (run_onnx(with_all_activations(m).SerializeToString(), inputs(seed)) for m in (model, encoded))
    assert all(np.array_equal(got[name], expected[name]) for name in expected)
    most = np.float32(127) * stored["act/s"]
    assert got["act/dq"].max() <= most


def exact_in_float16(model) -> onnx.ModelProto:
    """Return a copy in opset 19 whose scales and biases float16 holds, so that only the arithmetic differs."""
    copy = onnx.version_converter.convert_version(model, 19)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return copy


def integers_on_the_way(model, requests) -> dict:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for node in copy.graph.node:
        if node.op_type == "QuantizeLinear":
            copy.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.INT8, None))
    return run_onnx(copy.SerializeToString(), requests)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), ACTIVATIONS)
def test_float16_rounds_scales_and_biases_and_leaves_integers(seed, activation):
    model = onnx.version_converter.convert_version(convolution(seed, activation, bias=True), 19)
    encoded = encode(model, "s8-f16")
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, encoded))
    for name, value in before.items():
        if value.dtype == np.float32:
            assert after[name].dtype == np.float16
            np.testing.assert_allclose(after[name].astype(np.float32), value, rtol=2**-11, atol=2**-24)
            assert ((after[name] > 0) == (value > 0)).all()  # no scale becomes 0
        else:
            np.testing.assert_array_equal(after[name], value)
    types = {value.name: value.type.tensor_type.elem_type for value in (*encoded.graph.input, *encoded.graph.output)}
    assert set(types.values()) == {TensorProto.FLOAT}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), ACTIVATIONS)
def test_float16_activations_are_equal_but_where_a_rounded_sum_falls_to_the_next_step(seed, activation):
    model = exact_in_float16(convolution(seed, activation, bias=True))
    requests = {"x": inputs(seed)["x"].astype(np.float16).astype(np.float32)}
    expected, got = (integers_on_the_way(m, requests) for m in (model, emulated(encode(model, "s8-f16"))))
    np.testing.assert_array_equal(got["x/q"], expected["x/q"])
    conv, name = ("act/q", "act/s") if "act/q" in expected else ("conv/q", "conv/s")
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    x, w = (torch.tensor(integers, dtype=torch.float64) for integers in (expected["x/q"][:, 0], stored["w"]))
    terms = functional.conv2d(x.abs(), w.abs(), padding=1).numpy()  # what is summed, in steps of each channel
    steps = stored["x/s"] * stored["w/s"] / stored[name]
    bias = np.abs(stored["b"]) / stored[name]
    most = (terms * steps[:, None, None] + bias[:, None, None] + 128) * 2.0**-9
    assert (np.abs(got[conv][:, 0].astype(int) - expected[conv][:, 0].astype(int)) <= 1 + most).all()


def test_float16_scales_need_opset_19():
    with pytest.raises(ConfigError, match="opset 18: float16 scales need opset 19 or newer"):
        encode(convolution(0, None, bias=True), "s8-f16")


def test_a_layer_that_overflows_float16_stays_in_float32_with_its_roundings():
    """Its DequantizeLinear has a float32 scale then, for itself: a Cast between the two would make the layer float."""
    writer = Writer()
    x = writer.rounded("x", 0.05)
    weight = writer.weight("w", np.full((3, 3, 1, 1), 100), np.full(3, 50.0))
    conv = writer.node("Conv", [x, weight, writer.store("b", np.zeros(3, np.float32))], "conv", name="large")
    product = writer.node("Mul", [conv, writer.store("c", np.float32(1e-4))], "small")
    other = writer.node("Relu", [x], "other")
    y = writer.rounded(writer.node("Add", [other, product], "sum"), 0.1)
    model = onnx.version_converter.convert_version(writer.model(y, [1, 3, 6, 6], 4), 19)
    kept = float32_nodes(model, inputs(0))
    assert {"large", "small"} < set(kept)
    encoded = encode(model, "s8-f16", kept)
    producer = {name: node for node in encoded.graph.node for name in node.output}
    (layer,) = (node for node in encoded.graph.node if node.op_type == "Conv")
    assert [producer[name].op_type for name in layer.input[:2]] == ["DequantizeLinear"] * 2
    expected, got = (run_onnx(m.SerializeToString(), inputs(0))["sum/dq"] for m in (model, emulated(encoded)))
    np.testing.assert_allclose(got, expected, rtol=2**-10, atol=0.1001)


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


@pytest.mark.parametrize(("axis", "place"), [(0, 0), (1, 0), (1, 1)])
def test_a_table_keeps_its_scales_for_rows_columns_and_what_a_gather_takes(axis, place):
    """A file of another maker; only rows with one scale for each column are dequantized after they are taken."""
    rng, shape = np.random.default_rng(0), (12, 8)
    taken = "1, 3, 8" if place == 0 else "12, 1, 3"
    model = text_model(
        f"(int64[1, 3] ids) => (float[{taken}] y) {{ t = DequantizeLinear<axis = {axis}>(table, ts, tz)"
        f" e = Gather<axis = {place}>(t, ids) q = QuantizeLinear(e, s, z) y = DequantizeLinear(q, s, z) }}", 17,
        table=rng.integers(-127, 128, shape).astype(np.int8), ts=rng.uniform(0.01, 0.02, shape[axis]).astype(np.float32),
        tz=np.zeros(shape[axis], np.int8), s=np.float32(0.02), z=np.int8(0),
    )  # fmt: skip
    encoded = encode(model, "u8-i32")
    requests = {"ids": rng.integers(0, 8, (4, 1, 3))}
    expected, got = (run_onnx(one.SerializeToString(), requests)["y"] for one in (model, encoded))
    np.testing.assert_array_equal(got, expected)
    (gather,) = (node for node in encoded.graph.node if node.op_type == "Gather")
    assert (gather.input[0] == "table") == (axis == 1 and place == 0)


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
        (asymmetric, "is not of encoding s8-f32 or u8-f32"),
        (weight_not_stored, "weights stored as int8"),
        (lambda: encode(convolution(0, None, bias=True), "u8-i32"), "is not of encoding s8-f32 or u8-f32"),
    ],
)
def test_a_model_that_is_not_canonical_is_refused(model, reason):
    with pytest.raises(ConfigError, match=reason):
        encode(model(), "u8-i32")
